"""One answer of the student to one prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.arrays import Ids


@dataclass(frozen=True, eq=False)
class Rollout:
    """T response tokens, sampled by the student under mm."""

    response_ids: Ids
    """i32 [T], the end of sequence included where it was reached."""
    candidates: np.ndarray | None
    """i32 [T, C], the student's own top ids of every step."""
    finished: bool
    """False where the longest response was cut."""
    policy_step: int
    """Optimizer steps that the policy had seen."""
