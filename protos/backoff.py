"""How long to wait before the next attempt: twice as long each time, and never as long as anybody else."""

from __future__ import annotations

import random


class Backoff:
    """Full jitter (Brooker, "Exponential Backoff and Jitter", AWS 2015): each wait is uniform below a growing bound."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._bound_s = first_s

    def next_s(self) -> float:
        """Seconds to wait now; at least a tenth of the bound, so that nobody hammers."""
        bound_s = self._bound_s
        self._bound_s = min(2 * bound_s, self._longest_s)
        return random.uniform(bound_s / 10, bound_s)

    def reset(self) -> None:
        """It worked: begin anew."""
        self._bound_s = self._first_s
