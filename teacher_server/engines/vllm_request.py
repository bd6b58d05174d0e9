"""What one vLLM request is told beside its tokens (plain values), and what comes back (bytes)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np

from protos.arrays import as_ids
from protos.item import Candidates, ScoreItem
from protos.scores import PER_ENTRY, PER_ROW, Scores

ContextName = Literal["mm", "text", "alone"]
"""`alone`: a prompt without an image, whose text context is its mm context."""


@dataclass(frozen=True, eq=False)
class HalfRequest:
    """One response in one context. Its tokens are the expanded prompt and all of the response but the last."""

    pair: str
    """Shared by the two contexts of one response."""
    context: ContextName
    first_row: int
    """Position of the token whose state scores the first response token: the prompt's last."""
    item: ScoreItem | None
    """Response, candidates and k; one of the two halves carries it."""
    rows: int
    """T, response tokens."""

    def to_kwargs(self) -> dict[str, Any]:
        """As `PoolingParams.extra_kwargs`, which cross a process boundary as msgpack."""
        values: dict[str, Any] = {
            "pair": self.pair,
            "context": self.context,
            "first_row": self.first_row,
            "rows": self.rows,
        }
        if self.item is not None:
            values |= {
                "response_ids": as_ids(self.item.response_ids).tobytes(),
                "mode": self.item.mode,
                "k": self.item.k,
                "vocab_size": self.item.vocab_size,
            }
            if self.item.response_mask is not None:
                values["response_mask"] = self.item.response_mask.tobytes()
            if self.item.candidates is not None:
                values |= {
                    "candidate_splits": as_ids(self.item.candidates.splits).tobytes(),
                    "candidate_ids": as_ids(self.item.candidates.ids).tobytes(),
                }
        return values

    @classmethod
    def from_kwargs(cls, values: dict[str, Any]) -> HalfRequest:
        """The inverse of `to_kwargs`."""
        item = None
        if "response_ids" in values:
            candidates = None
            if "candidate_ids" in values:
                candidates = Candidates(
                    splits=np.frombuffer(values["candidate_splits"], "<i4"),
                    ids=np.frombuffer(values["candidate_ids"], "<i4"),
                )
            mask = values.get("response_mask")
            item = ScoreItem(
                response_ids=np.frombuffer(values["response_ids"], "<i4"),
                response_mask=None if mask is None else np.frombuffer(mask, np.bool_),
                mode=values["mode"],
                k=values["k"],
                candidates=candidates,
                vocab_size=values["vocab_size"],
            )
        return cls(values["pair"], values["context"], values["first_row"], item, values["rows"])


class Outcome(IntEnum):
    """The first byte of what a request returns."""

    PARKED = 0
    """Its states wait for the other context."""
    INCOMPLETE = 1
    """A cached prefix reached past the first row: states are missing, and nothing waits."""
    SCORED = 2
    """The scores follow."""
    NOT_FINITE = 3
    """The logits hold NaN or infinity."""


def outcome_to_bytes(outcome: Outcome, scores: Scores | None = None) -> np.ndarray:
    """u8 [n]: the outcome, padding to 8 bytes, then for SCORED i64 T, i64 N and the arrays one after the other."""
    head = np.zeros(8, dtype=np.uint8)
    head[0] = outcome
    if scores is None:
        return head
    sizes = np.array([scores.rows, len(scores.support_ids)], dtype="<i8")
    arrays = [getattr(scores, name) for name in _LAYOUT]
    return np.concatenate([head, *(array.view(np.uint8) for array in (sizes, *arrays))])


def outcome_from_bytes(data: np.ndarray) -> tuple[Outcome, Scores | None]:
    """The inverse of `outcome_to_bytes`; the arrays are views of `data`."""
    outcome = Outcome(data[0])
    if outcome is not Outcome.SCORED:
        return outcome, None
    rows, entries = data[8:24].view("<i8").tolist()
    arrays: dict[str, Any] = {}
    start = 24
    for name, dtype in _LAYOUT.items():
        count = rows + 1 if name == "row_splits" else rows if name in PER_ROW else entries
        end = start + count * np.dtype(dtype).itemsize
        arrays[name] = data[start:end].view(dtype)
        start = end
    return outcome, Scores(**arrays)


_LAYOUT = {
    "row_splits": "<i4",
    "support_ids": "<i4",
    **{
        name: "<f4" for name in (*PER_ENTRY, *PER_ROW) if name.endswith(("logprobs", "tail", "vds"))
    },
    "response_ids": "<i4",
    "tail_mask": "?",  # last: all before it are aligned to four bytes
}
