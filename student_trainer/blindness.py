"""A teacher that answers the same with and without the pictures: steering then does nothing, which has to be said."""

from __future__ import annotations

import logging
from collections.abc import Mapping

log = logging.getLogger(__name__)

BLIND_VDS = 1e-3
"""Mean VDS in nats below which the teacher's two contexts are as good as one."""
STEPS = 5
"""In a row, before it is said."""


class Blindness:
    """Counts steps without visual dependence, and warns once of each such stretch."""

    def __init__(self) -> None:
        self._steps = 0

    def watch(self, metrics: Mapping[str, float]) -> None:
        """Take in a step's metrics."""
        blind = metrics.get("vds/mean", BLIND_VDS) < BLIND_VDS
        self._steps = self._steps + 1 if blind else 0
        if self._steps == STEPS:
            log.warning(
                "mean VDS has been below %g nats for %d steps: the teacher answers the same with and without the "
                "pictures, and steering falls back to standard distillation; are the images in the prompts?",
                BLIND_VDS,
                STEPS,
            )
