"""How VDS is spread over all tokens, counted on a fine logarithmic grid: memory is the same for any number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from protos.arrays import Floats

LOWEST = 1e-7
"""Nats. What is below, exact zeros among it, is one bin: float32 log-probabilities say no more."""
DECADES = 10
FINE = 5000
"""Bins a decade: edges of deciles are right to 0.05%."""
COARSE = 4
"""Bars a decade in the chart; divides FINE."""
CHART_LOWEST_DECADE = 1
"""Decades above LOWEST that the chart's first bar takes in."""


@dataclass(frozen=True)
class Decile:
    """A tenth of all tokens, by VDS."""

    low: float
    high: float
    """Nats; the next decile's `low`."""
    tokens: float
    mean: float
    """Nats; NaN where there is no token."""
    share: float
    """Of the sum of all VDS; NaN where that is 0."""
    gain: float
    """Nats: mean of mm less text log-probability of its tokens."""


@dataclass(frozen=True)
class Bar:
    """Of the chart: low <= VDS < high."""

    low: float
    high: float
    tokens: int
    vds: float
    """Sum over its tokens, nats."""


class VdsHistogram:
    """Counts, sums of VDS and sums of gains by bin; bin 0 is below LOWEST, the last one all that is above the grid."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, DECADES * FINE + 2))  # tokens, VDS, gain
        self.least, self.most = math.inf, 0.0

    @property
    def tokens(self) -> int:
        """All that were added."""
        return int(self._sums[0].sum())

    @property
    def mean(self) -> float:
        """Nats; NaN without tokens."""
        return float(self._sums[1].sum() / self.tokens) if self.tokens else math.nan

    def add(self, vds: Floats, gains: Floats) -> None:
        """f32 [T] each. What is not finite is left out."""
        finite = np.isfinite(vds) & np.isfinite(gains)
        if not finite.any():
            return
        wide = vds[finite].astype(np.float64)
        self.least, self.most = min(self.least, wide.min()), max(self.most, wide.max())
        height = np.log10(np.maximum(wide, LOWEST / 10) / LOWEST)
        size = self._sums.shape[1]
        bins = np.clip(np.floor(height * FINE).astype(np.int64) + 1, 0, size - 1)
        for row, weights in enumerate((None, wide, gains[finite])):
            self._sums[row] += np.bincount(bins, weights, size)

    def deciles(self) -> list[Decile]:
        """Ten, from the least visual tokens to the most; none without tokens."""
        if not self.tokens:
            return []
        cumulative = np.pad(np.cumsum(self._sums, axis=1), ((0, 0), (1, 0)))
        ranks = np.linspace(0, cumulative[0, -1], 11)
        # Ranks that fall inside a bin share its sums out evenly.
        tokens, vds, gain = (np.diff(np.interp(ranks, cumulative[0], row)) for row in cumulative)
        inner = self._places(ranks[1:-1], cumulative[0])
        edges = [self.least, *(self._edge(float(place)) for place in inner), self.most]
        whole = vds.sum()
        return [
            Decile(
                edges[i],
                edges[i + 1],
                float(tokens[i]),
                float(vds[i] / tokens[i]),
                float(vds[i] / whole) if whole else math.nan,
                float(gain[i] / tokens[i]),
            )
            for i in range(10)
        ]

    def bars(self) -> list[Bar]:
        """Of the chart: one of all that is close to 0, then COARSE a decade, up to the last that holds a token."""
        first = 1 + CHART_LOWEST_DECADE * FINE
        width = FINE // COARSE
        starts = [0, *range(first, self._sums.shape[1] - 1, width)]
        tokens, vds, _ = np.add.reduceat(self._sums, starts, axis=1)
        last = int(np.flatnonzero(tokens)[-1]) if self.tokens else 0
        edges = [0.0, *(LOWEST * 10 ** ((start - 1) / FINE) for start in starts[1:]), math.inf]
        return [Bar(edges[i], edges[i + 1], int(tokens[i]), float(vds[i])) for i in range(last + 1)]

    def _places(self, ranks: np.ndarray, cumulative: np.ndarray) -> np.ndarray:
        """Bin and fraction of it where each rank lies; empty bins hold none."""
        held = np.flatnonzero(np.diff(cumulative))
        ends = np.searchsorted(cumulative[held + 1], ranks)
        bins = held[np.minimum(ends, len(held) - 1)]
        below = cumulative[bins]
        return bins + (ranks - below) / (cumulative[bins + 1] - below)

    def _edge(self, place: float) -> float:
        """VDS at a place of the grid."""
        value = 0.0 if place < 1 else LOWEST * 10 ** ((place - 1) / FINE)
        return min(max(value, self.least), self.most)
