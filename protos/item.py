"""What is asked of one response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from protos.arrays import Ids, Mask, as_ids, no_ids

ScoreDType = Literal["f32", "f16"]
Priority = Literal["train", "score"]
"""A trainer waits for the first; the second fills the time that is left."""
Mode = Literal["topk", "vds_only", "sampled_only"]
"""Everything; VDS and the response's own log-probabilities; the latter alone. The second and third have no support."""


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
    """One response to score, verbatim: as ids, as a text, or as the turns of a dialogue."""

    response_ids: Ids = field(default_factory=no_ids)
    """i32 [T], T >= 1; empty where the response is given as text."""
    k: int = 0
    """Size of the teacher's own top-k in each context; mode "topk" alone needs it."""
    candidates: Candidates | None = None
    dtype: ScoreDType = "f32"
    """Wire dtype of the support's log-probabilities."""
    deadline_s: float | None = None
    """Seconds from the server's receipt to its answer; None: no deadline."""
    vocab_size: int = 0
    """Ids at or above it stay out of the support; 0: the teacher's own vocabulary."""
    priority: Priority = "train"
    mode: Mode = "topk"
    response_mask: Mask | None = None
    """bool [T], false for tokens that are only read; None: all are scored."""
    response_text: str | None = None
    """Tokenised by the teacher as it stands: no token is added at its end."""
    response_turns: str | None = None
    """JSON of the messages that follow a ChatPrompt's, first and last the assistant's: the content of every one of the
    assistant's is scored, the others are read."""
    token_texts: bool = False
    """Ask for the tokens' texts too."""

    @property
    def text(self) -> str | None:
        """What the teacher is to tokenise; None where ids are given."""
        return self.response_turns if self.response_text is None else self.response_text

    @property
    def scored_ids(self) -> Ids:
        """i32 [R], those that are scored, of ids that are given."""
        mask = self.response_mask
        return self.response_ids if mask is None else self.response_ids[mask]

    def cost(self, max_response_tokens: int) -> int:
        """Credit that it spends: its tokens, or for a text as many as it can have at most."""
        if self.text is None:
            return max(1, len(self.response_ids))
        return max(1, min(len(self.text.encode()), max_response_tokens))

    def without_mask(self) -> ScoreItem:
        """The same item with the rows that are scored alone: what their hidden states are scored by."""
        if self.response_mask is None:
            return self
        candidates = self.candidates
        if candidates is not None:
            counts = np.diff(candidates.splits)
            kept = np.repeat(self.response_mask, counts)
            splits = np.concatenate([[0], np.cumsum(counts[self.response_mask])])
            candidates = Candidates(splits.astype(np.int32), candidates.ids[kept])
        return replace(
            self, response_ids=self.scored_ids, candidates=candidates, response_mask=None
        )

    @property
    def memory_bytes(self) -> int:
        """What keeping it costs."""
        own = self.response_ids.nbytes
        if self.candidates is not None:
            own += self.candidates.splits.nbytes + self.candidates.ids.nbytes
        if self.response_mask is not None:
            own += self.response_mask.nbytes
        return own + len((self.text or "").encode())
