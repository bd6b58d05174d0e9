"""A response with all that was said about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.scores import Scores
from student_trainer.prompting import StudentPrompt
from student_trainer.rollout import Rollout


@dataclass(frozen=True, eq=False)
class ScoredRollout:
    """T response tokens, and what teacher and rewards make of them."""

    prompt: StudentPrompt
    rollout: Rollout
    scores: Scores | None
    """The teacher's, row for row; None where nothing is distilled."""
    advantage: float = 0.0
    """Of its reward within its group."""

    def __post_init__(self) -> None:
        rows = self.length if self.scores is None else self.scores.rows
        assert rows == self.length, "scores of another response"

    @property
    def length(self) -> int:
        """T"""
        return len(self.rollout.response_ids)

    @property
    def vds(self) -> np.ndarray:
        """The teacher's visual dependency scores, f32 [T], nats; zeros without a teacher."""
        return np.zeros(self.length, np.float32) if self.scores is None else self.scores.vds
