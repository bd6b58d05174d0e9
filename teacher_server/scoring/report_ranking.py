"""Which samples the page shows, in level memory: the highest and lowest by each measure, and others evenly between."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MEASURES = {
    "mean": "vds_mean",
    "max": "vds_max",
    "p90": "vds_p90",
    "share": "vds_share_above_q70",
    "gain": "sequence_gain",
}
"""Name in the page: column."""
POOL = 4096
"""Rows drawn at random, among which the ones between are found."""
ENDS_SHARE = 2 / 3
"""Of the page's samples: highest and lowest ones."""


class _Ends:
    """The rows with the highest and the lowest values, best first; of equals, the earlier row."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.highest, self.lowest = (_none() for _ in range(2))
        self.least, self.most = np.inf, -np.inf

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        there = np.isfinite(values)
        rows, values = rows[there], values[there]
        if not len(rows):
            return
        self.least, self.most = min(self.least, values.min()), max(self.most, values.max())
        self.highest = self._best(self.highest, rows, values, -1.0)
        self.lowest = self._best(self.lowest, rows, values, 1.0)

    def _best(
        self, kept: tuple[np.ndarray, np.ndarray], rows: np.ndarray, values: np.ndarray, way: float
    ) -> tuple[np.ndarray, np.ndarray]:
        rows, values = np.concatenate([kept[0], rows]), np.concatenate([kept[1], values])
        order = np.lexsort((rows, way * values))[: self._size]
        return rows[order], values[order]


class Ranking:
    """Fed with all rows once; then `picks` says which to read again."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self._ends = {name: _Ends(samples) for name in MEASURES}
        self._random = np.random.default_rng(0)
        self._pool, self._keys = _none(), np.zeros(0)

    def add(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Row numbers i64 [R], and by measure f64 [R], NaN where a row has none."""
        for name, ends in self._ends.items():
            ends.add(rows, values[name])
        there = np.isfinite(values["mean"])
        keys = np.concatenate([self._keys, self._random.random(np.count_nonzero(there))])
        drawn = np.argsort(keys)[:POOL]  # the smallest keys of all: a fair draw
        joined = zip(self._pool, (rows[there], values["mean"][there]), strict=True)
        pool_rows, pool_values = (np.concatenate(pair)[drawn] for pair in joined)
        self._pool, self._keys = (pool_rows, pool_values), keys[drawn]

    def span(self, measure: str) -> tuple[float, float] | None:
        """Least and most over all rows; None where no row has the measure."""
        ends = self._ends[measure]
        return (float(ends.least), float(ends.most)) if len(ends.highest[0]) else None

    def picks(self) -> list[int]:
        """Row numbers, ascending."""
        picked: set[int] = set()
        room = int(np.ceil(ENDS_SHARE * self._samples))
        sides = [side for e in self._ends.values() for side in (e.highest[0], e.lowest[0])]
        for place in range(self._samples):
            for side in sides:
                if len(picked) < room and place < len(side):
                    picked.add(int(side[place]))
        return sorted(picked | self._between(picked, self._samples - len(picked)))

    def _between(self, picked: set[int], count: int) -> set[int]:
        """Rows of the pool, evenly over the ranks of their mean VDS."""
        rows, means = self._pool
        others = [int(row) for row in rows[np.argsort(means, kind="stable")] if row not in picked]
        places = np.linspace(0, len(others) - 1, min(count, len(others))).round().astype(int)
        return {others[place] for place in places}


class Ranks:
    """Among all rows, the rank of each picked one by each measure: 1 is the highest, equals share theirs."""

    def __init__(self, picked: Mapping[str, np.ndarray]) -> None:
        """By measure, the picked rows' values; NaN where one has none."""
        self._picked = dict(picked)
        self._sorted = {name: np.sort(values) for name, values in self._picked.items()}
        self._above = {name: np.zeros(len(v) + 1, np.int64) for name, v in self._picked.items()}

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """All rows' values, batch by batch."""
        for name, ordered in self._sorted.items():
            there = values[name][np.isfinite(values[name])]
            passed = np.searchsorted(ordered, there, side="left")  # picked ones below each
            self._above[name] += np.bincount(passed, minlength=len(ordered) + 1)

    def of(self, measure: str) -> list[int | None]:
        """In the order of the picked rows."""
        ordered, counts = self._sorted[measure], self._above[measure]
        higher = counts[::-1].cumsum()[::-1][1:]  # rows above each of the ordered ones
        last = np.searchsorted(ordered, self._picked[measure], side="right") - 1
        return [
            int(higher[place]) + 1 if np.isfinite(value) else None
            for place, value in zip(last, self._picked[measure], strict=True)
        ]


def _none() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(0, np.int64), np.zeros(0)
