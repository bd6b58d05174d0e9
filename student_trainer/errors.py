"""Why a run stops before its last step."""

from __future__ import annotations


class TrainerError(Exception):
    """A run that can't go on."""


class TooManyDropped(TrainerError, RuntimeError):
    """More responses came back without scores than `teacher.max_dropped_share` allows."""
