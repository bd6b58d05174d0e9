"""Exact quantiles of any number of VDS values in little memory.

Non-negative float32 are ordered as their bit patterns are. A count of the upper 16 bits says in which of 65,536 bins a
rank lies; another pass over the values counts the lower 16 bits of those bins alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from protos.arrays import Floats

QUANTILES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
BINS = 2**16
Counts = npt.NDArray[np.int64]


class VdsCounts:
    """The first pass: how many values have which upper half."""

    def __init__(self) -> None:
        self.values = 0
        self.total = 0.0
        """Sum of all, in float64."""
        self.bins: Counts = np.zeros(BINS, np.int64)

    def add(self, vds: Floats) -> None:
        """f32 [N], none below zero or NaN."""
        self.values += len(vds)
        self.total += float(vds.sum(dtype=np.float64))
        self.bins += np.bincount(_bits(vds) >> 16, minlength=BINS)

    @property
    def mean(self) -> float | None:
        """None where there are no values."""
        return self.total / self.values if self.values else None


def vds_quantiles(
    counts: VdsCounts, passes: Iterable[Floats], quantiles: Sequence[float] = QUANTILES
) -> dict[float, float]:
    """Quantile -> value, interpolated between neighbours as numpy.quantile and torch.quantile do.

    `passes` are all values that were counted, in pieces of any size and order. Empty where there are none.
    """
    if not counts.values:
        return {}
    positions = [(counts.values - 1) * q for q in quantiles]
    lower = [int(position) for position in positions]
    ranks = sorted({rank for low in lower for rank in (low, min(low + 1, counts.values - 1))})
    found = _values_at(ranks, counts.bins, passes)
    return {
        q: _between(found[low], found[min(low + 1, counts.values - 1)], position - low)
        for q, low, position in zip(quantiles, lower, positions, strict=True)
    }


def _values_at(ranks: Sequence[int], bins: Counts, passes: Iterable[Floats]) -> dict[int, float]:
    """The values that stand at these places in order, from 0."""
    ends = np.cumsum(bins)
    bin_of = dict(zip(ranks, np.searchsorted(ends, ranks, side="right").tolist(), strict=True))
    wanted = sorted(set(bin_of.values()))
    place = np.full(BINS, -1, np.int64)
    place[wanted] = np.arange(len(wanted))
    lower_halves = np.zeros((len(wanted), BINS), np.int64)
    for vds in passes:
        bits = _bits(vds)
        places = place[bits >> 16]
        kept = places >= 0
        flat = places[kept] * BINS + (bits[kept] & (BINS - 1))
        where, times = np.unique(flat, return_counts=True)
        lower_halves.reshape(-1)[where] += times
    found: dict[int, float] = {}
    for rank, number in bin_of.items():
        before = int(ends[number] - bins[number])
        low = int(np.searchsorted(np.cumsum(lower_halves[place[number]]), rank - before, "right"))
        found[rank] = float(np.array((number << 16) | low, np.uint32).view(np.float32))
    return found


def _between(low: float, high: float, share: float) -> float:
    """In NumPy's way, which is exact at both ends."""
    if share < 0.5:
        return low + (high - low) * share
    return high - (high - low) * (1 - share)


def _bits(vds: Floats) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(vds, np.float32).view(np.uint32)
