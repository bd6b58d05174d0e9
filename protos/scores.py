"""The teacher's answer for one response, on a ragged support. Rows are of the tokens that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from protos.arrays import Floats, Ids, Mask

PER_ROW = (
    "mm_tail",
    "text_tail",
    "tail_mask",
    "vds",
    "sampled_mm_logprobs",
    "sampled_text_logprobs",
    "response_ids",
)
"""Arrays with one entry per response token."""
PER_ENTRY = ("support_ids", "mm_logprobs", "text_logprobs")
"""Arrays with one entry per support id; `row_splits` says which belong to a row."""


@dataclass(frozen=True, eq=False)
class Scores:
    """T response tokens scored in both contexts; N support ids in all. Nats throughout."""

    row_splits: Ids
    """i32 [T+1]; row t owns entries row_splits[t] : row_splits[t+1]."""
    support_ids: Ids
    """i32 [N], ascending within a row."""
    mm_logprobs: Floats
    """f32 [N]"""
    text_logprobs: Floats
    """f32 [N]"""
    mm_tail: Floats
    """f32 [T], log of the mass outside the support; 0 where `tail_mask` is false."""
    text_tail: Floats
    """f32 [T]"""
    tail_mask: Mask
    """bool [T], false where the support covers the vocabulary."""
    vds: Floats
    """f32 [T], KL(mm || text) over the full vocabulary, >= 0 (paper Eq. 12); NaN in mode "sampled_only"."""
    sampled_mm_logprobs: Floats
    """f32 [T], of the response's own tokens."""
    sampled_text_logprobs: Floats
    """f32 [T]"""
    response_ids: Ids
    """i32 [T], the ids that were scored."""
    teacher_id: str = ""
    echo: bytes = b""
    queue_s: float = 0.0
    engine_s: float = 0.0
    token_texts: tuple[str, ...] = ()
    """[T] where asked for, else empty. A token that ends inside a character is "", the one that completes it has the
    character."""

    @property
    def rows(self) -> int:
        """T, the number of response tokens."""
        return len(self.response_ids)

    def slice_rows(self, first: int, end: int) -> Scores:
        """Rows first to end - 1 as scores of their own; the echo and times go along."""
        low, high = int(self.row_splits[first]), int(self.row_splits[end])
        parts: dict[str, np.ndarray] = {
            "row_splits": (self.row_splits[first : end + 1] - low).astype(np.int32)
        }
        parts |= {name: getattr(self, name)[low:high] for name in PER_ENTRY}
        parts |= {name: getattr(self, name)[first:end] for name in PER_ROW}
        return replace(self, **parts, token_texts=self.token_texts[first:end])

    @classmethod
    def join(cls, chunks: Sequence[Scores]) -> Scores:
        """The response's chunks, in order, as one; teacher, echo and times are the last chunk's."""
        offsets = np.cumsum([0, *(len(c.support_ids) for c in chunks)])
        splits = [c.row_splits[1:] + offset for c, offset in zip(chunks, offsets, strict=False)]
        parts = {
            name: np.concatenate([getattr(c, name) for c in chunks])
            for name in (*PER_ENTRY, *PER_ROW)
        }
        parts["row_splits"] = np.concatenate([[0], *splits]).astype(np.int32)
        texts = tuple(text for chunk in chunks for text in chunk.token_texts)
        return replace(chunks[-1], **parts, token_texts=texts)

    def equal_to(self, other: Scores) -> bool:
        """Whether every array has the same dtype, shape and bits, and the texts are the same; echo and times do not
        count.
        """
        names = [f.name for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)]
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        arrays = all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)
        return arrays and self.token_texts == other.token_texts
