"""What is asked of one response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from protos.arrays import Ids, as_ids

ScoreDType = Literal["f32", "f16"]
Priority = Literal["train", "score"]
"""A trainer waits for the first; the second fills the time that is left."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Ids that the student wants in the support of each token, ragged (CSR)."""

    splits: Ids
    """i32 [T+1]; row t owns ids[splits[t] : splits[t+1]]."""
    ids: Ids
    """i32 [C]"""

    @classmethod
    def from_array(cls, ids: Ids) -> Candidates:
        """From the same number of ids for each response token, i32 [T, K]."""
        tokens, per_token = ids.shape
        return cls(splits=as_ids(range(0, tokens * per_token + 1, per_token)), ids=as_ids(ids))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]]) -> Candidates:
        """From one sequence of ids per response token, of any lengths."""
        lengths = np.array([0, *(len(row) for row in rows)])
        flat = [int(i) for row in rows for i in row]
        return cls(splits=as_ids(np.cumsum(lengths)), ids=as_ids(flat))


@dataclass(frozen=True, eq=False)
class ScoreItem:
    """One response to score, verbatim."""

    response_ids: Ids
    """i32 [T], T >= 1"""
    k: int
    """Size of the teacher's own top-k in each context."""
    candidates: Candidates | None = None
    dtype: ScoreDType = "f32"
    """Wire dtype of the support's log-probabilities."""
    deadline_s: float | None = None
    """Seconds from the server's receipt to its answer; None: no deadline."""
    vocab_size: int = 0
    """Ids at or above it stay out of the support; 0: the teacher's own vocabulary."""
    priority: Priority = "train"

    @property
    def memory_bytes(self) -> int:
        """What keeping it costs."""
        own = self.response_ids.nbytes
        if self.candidates is not None:
            own += self.candidates.splits.nbytes + self.candidates.ids.nbytes
        return own
