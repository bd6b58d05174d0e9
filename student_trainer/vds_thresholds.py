"""Q_0.4 and Q_0.7 of the visual dependency score: which tokens depend on the picture much (Eq. 16, 24)."""

from __future__ import annotations

import torch
from torch import Tensor

from student_trainer.objective_config import ObjectiveConfig


class VdsThresholds:
    """Of the optimizer batch, or an average over the steps so far, in which older ones count less."""

    def __init__(self, config: ObjectiveConfig) -> None:
        self._quantiles = (config.low_quantile, config.quantile)
        self._decay = config.quantile_decay if config.quantiles == "running" else 0.0
        self.state: list[float] = []
        """[Q_low, Q_high] as they stand; empty before the first step."""

    def update(self, vds: Tensor) -> tuple[Tensor, Tensor]:
        """(Q_low, Q_high), f32 [], of this step with `vds` [T], all response tokens of its optimizer batch."""
        now = [float(quantile(vds, q)) for q in self._quantiles]
        if self.state:
            d = self._decay
            now = [d * old + (1 - d) * new for old, new in zip(self.state, now, strict=True)]
        self.state = now
        low, high = torch.tensor(now, dtype=torch.float32).unbind()
        return low, high


def quantile(values: Tensor, q: float) -> Tensor:
    """Interpolated as torch.quantile does, which stops at 16 million entries; [T] -> []."""
    rank = q * (len(values) - 1)
    ordered = values.double().sort().values
    low, high = ordered[int(rank)], ordered[min(int(rank) + 1, len(values) - 1)]
    return low + (rank - int(rank)) * (high - low)
