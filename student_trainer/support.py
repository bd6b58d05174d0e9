"""The teacher's ragged scores as padded buckets: a support per row, and the tail as the last bucket.

B responses, R rows (all their tokens), U support ids of the widest row, K = U + 1 buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from protos.scores import Scores


@dataclass(frozen=True)
class Support:
    """Where the four distributions of each row are compared, and the teacher's two of them."""

    ids: Tensor
    """i64 [R, U], padded with 0."""
    id_mask: Tensor
    """bool [R, U]"""
    tail_mask: Tensor
    """bool [R], false where the support covers the vocabulary."""
    teacher_mm_logprobs: Tensor
    """f32 [R, K]; masked entries are 0."""
    teacher_text_logprobs: Tensor
    """f32 [R, K]"""

    @property
    def bucket_mask(self) -> Tensor:
        """Bool [R, K]"""
        return torch.cat([self.id_mask, self.tail_mask[:, None]], dim=1)

    def __getitem__(self, rows: Tensor) -> Support:
        """Of some rows alone, by bool [R]."""
        return Support(*(getattr(self, one.name)[rows] for one in fields(self)))

    @classmethod
    def from_scores(
        cls, scores: Sequence[Scores], vocab_size: int, device: torch.device | str = "cpu"
    ) -> Support:
        """Rows of all responses, one after the other.

        `vocab_size` is the student's. Where the support covers it the student has nothing in the tail, which then
        adds nothing to any divergence from the student, whatever a larger teacher has there.
        """
        counts = np.concatenate([np.diff(s.row_splits) for s in scores])
        width = int(counts.max())
        id_mask = np.arange(width)[None] < counts[:, None]

        def padded(name: str, dtype: type) -> np.ndarray:
            out = np.zeros(id_mask.shape, dtype=dtype)
            out[id_mask] = np.concatenate([getattr(s, name) for s in scores])
            return out

        def rows(name: str) -> np.ndarray:
            return np.concatenate([getattr(s, name) for s in scores])

        def buckets(context: str) -> Tensor:
            inside = padded(f"{context}_logprobs", np.float32)
            joined = np.concatenate([inside, rows(f"{context}_tail")[:, None]], axis=1)
            return torch.from_numpy(joined).to(device)

        return cls(
            ids=torch.from_numpy(padded("support_ids", np.int64)).to(device),
            id_mask=torch.from_numpy(id_mask).to(device),
            tail_mask=torch.from_numpy(rows("tail_mask") & (counts < vocab_size)).to(device),
            teacher_mm_logprobs=buckets("mm"),
            teacher_text_logprobs=buckets("text"),
        )
