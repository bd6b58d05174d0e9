"""Whose text prior q* stands on: the student's own, or that of a copy which keeps it from drifting."""

from __future__ import annotations

import copy

import torch

from student_trainer.objective_config import ObjectiveConfig
from student_trainer.student import Student


class Prior:
    """Nothing; the initial student; or a moving average of the student's weights."""

    def __init__(self, config: ObjectiveConfig, student: Student) -> None:
        """`student` as it is at the start of the run: copied where a copy is asked for, before weights are sharded."""
        self._decay = config.prior_decay if config.prior == "average" else 1.0
        self.student: Student | None = None
        """The copy; None where q* stands on the student's own prior."""
        if config.prior != "student":
            self.student = copy.deepcopy(student)
            self.student.model.requires_grad_(False)

    @torch.no_grad()
    def update(self, student: Student) -> None:
        """Take in the weights after a step."""
        if self.student is None or self._decay == 1.0:
            return
        averaged = self.student.model.parameters()
        for average, now in zip(averaged, student.model.parameters(), strict=True):
            average.lerp_(now, 1 - self._decay)
