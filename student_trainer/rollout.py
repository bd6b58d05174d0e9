"""One answer of the student to one prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from protos.arrays import Ids
from protos.item import Candidates


@dataclass(frozen=True, eq=False)
class Rollout:
    """T response tokens, sampled by the student under mm."""

    response_ids: Ids
    """i32 [T], the end of sequence included where it was reached."""
    candidates: Candidates | None
    """The student's own top ids of every step."""
    finished: bool
    """False where the longest response was cut."""
    policy_step: int
    """Optimizer steps that the policy had seen."""
    logprobs: np.ndarray | None = None
    """f32 [T], of the sampled tokens under that policy at temperature 1; None where the sampler does not tell."""


OnFinished = Callable[[int, Rollout], None]
"""Takes a prompt's index and its answer, as soon as that is finished."""
