"""What became of one row: its scores, or why there are none. T response tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from protos.arrays import Floats, Ids, no_ids
from protos.scores import Scores


def _no_floats() -> Floats:
    return np.empty(0, np.float32)


@dataclass(frozen=True, eq=False)
class RowResult:
    """Arrays are empty where the row failed."""

    row: int
    id: str
    token_ids: Ids = field(default_factory=no_ids)
    """i32 [T]"""
    token_texts: pa.StringArray | None = None
    """[T], packed: as Python objects they would take ten times the room."""
    vds: Floats = field(default_factory=_no_floats)
    """f32 [T], nats"""
    mm_logprobs: Floats = field(default_factory=_no_floats)
    """f32 [T]"""
    text_logprobs: Floats = field(default_factory=_no_floats)
    """f32 [T]"""
    error_code: str | None = None
    error: str | None = None

    @classmethod
    def scored(cls, row: int, id: str, scores: Scores) -> RowResult:
        """From the teacher's answer."""
        return cls(
            row,
            _clean(id),
            scores.response_ids,
            pa.array(scores.token_texts, pa.string()),
            # A zero may come with a sign, which would part it from its equals.
            scores.vds + np.float32(0),
            scores.sampled_mm_logprobs,
            scores.sampled_text_logprobs,
        )

    @classmethod
    def failed(cls, row: int, id: str, code: str, why: str) -> RowResult:
        """A row that goes without."""
        return cls(row, _clean(id), error_code=code, error=_clean(why))

    @property
    def tokens(self) -> int:
        """T; 0 where the row failed."""
        return len(self.token_ids)


def _clean(text: str) -> str:
    """What Unicode allows of it: JSON may hold halves of surrogate pairs, which Parquet can't."""
    return text.encode("utf-8", "replace").decode()
