"""A row's tokens in a few numbers, all in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.arrays import Floats


@dataclass(frozen=True)
class Summary:
    """Of T tokens, T >= 1."""

    vds_mean: float
    vds_max: float
    vds_p90: float
    """Interpolated, as numpy.quantile does."""
    sequence_gain: float
    """Nats: sum of mm less sum of text log-probabilities; how much likelier the picture makes the response."""

    @classmethod
    def of(cls, vds: Floats, mm_logprobs: Floats, text_logprobs: Floats) -> Summary:
        """From f32 [T] each."""
        wide = vds.astype(np.float64)
        gain = mm_logprobs.sum(dtype=np.float64) - text_logprobs.sum(dtype=np.float64)
        return cls(
            float(wide.mean()), float(wide.max()), float(np.quantile(wide, 0.9)), float(gain)
        )


def share_above(vds: Floats, threshold: float) -> float:
    """The share of f32 [T] that lies above, T >= 1."""
    return float(np.count_nonzero(vds.astype(np.float64) > threshold) / len(vds))
