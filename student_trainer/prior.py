"""Whose text prior q* stands on: the student's own, or that of a copy which keeps it from drifting."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from student_trainer.objective_config import ObjectiveConfig
from student_trainer.student import Student
from student_trainer.world import World


class Prior:
    """Nothing; the initial student; or a moving average of the student's weights."""

    def __init__(
        self,
        config: ObjectiveConfig,
        student: Student,
        initial: Callable[[], Student] | None = None,
    ) -> None:
        """`student` is copied where a copy is asked for, before its weights are sharded. `initial` loads the one that
        the run began with, where `student` has been trained already.
        """
        self._decay = config.prior_decay if config.prior == "average" else 1.0
        self.student: Student | None = None
        """The copy; None where q* stands on the student's own prior."""
        if config.prior != "student":
            again = initial if config.prior == "frozen" else None
            self.student = copy.deepcopy(student) if again is None else again()
            self.student.model.requires_grad_(False)

    @property
    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights themselves by name, for checkpoints; {} where nothing is averaged."""
        if self.student is None or self._decay == 1.0:
            return {}
        return {name: value.detach() for name, value in self.student.model.named_parameters()}

    def shard(self, world: World) -> None:
        """As `Student.shard`."""
        if self.student is not None:
            self.student.shard(world)

    @torch.no_grad()
    def update(self, student: Student) -> None:
        """Take in the weights after a step."""
        if self.student is None or self._decay == 1.0:
            return
        averaged = self.student.model.parameters()
        for average, now in zip(averaged, student.model.parameters(), strict=True):
            average.lerp_(now, 1 - self._decay)
