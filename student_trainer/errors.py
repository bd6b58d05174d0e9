"""Why a run stops before its last step."""

from __future__ import annotations


class TrainerError(Exception):
    """A run that can't go on."""


class TeacherGone(TrainerError, ConnectionError):
    """The teacher stayed away for longer than `teacher.outage_s`. A checkpoint was left: the run can go on later."""


class RunInterrupted(TrainerError):
    """A signal ended the run before its last step. A checkpoint was left: the run can go on later."""


class RunFailed(TrainerError, OSError):
    """What a run stands on failed under it, such as a disk that is full: no fault of its settings."""


class Diverged(TrainerError, ArithmeticError):
    """A step's gradient is not finite. What was saved before it stands."""


class TooManyDropped(TrainerError, RuntimeError):
    """More responses came back without scores than `teacher.max_dropped_share` allows."""


class RankFailed(TrainerError, RuntimeError):
    """Another rank ended, and nothing can be summed without it."""
