"""Which tokens of the vocabulary hang on the picture: counts and sums by id over the whole data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from protos.arrays import Floats, Ids

SHOWN = 25
"""Tokens of each table, if there are enough for both."""


@dataclass(frozen=True)
class TokenFigures:
    """One entry of the vocabulary."""

    id: int
    text: str
    """Where it first stood; as part of a character it has no text of its own."""
    count: int
    mean: float
    """Of its VDS, nats."""
    max: float
    gain: float
    """Mean of mm less text log-probability, nats."""


class TokenTally:
    """Grows with the vocabulary, not with the data."""

    def __init__(self) -> None:
        self._counts = np.zeros(0, np.int64)
        self._vds = np.zeros(0)
        self._gains = np.zeros(0)
        self._most = np.zeros(0)
        self._texts: dict[int, str] = {}

    @property
    def distinct(self) -> int:
        """Ids that occurred."""
        return int(np.count_nonzero(self._counts))

    def add(self, ids: Ids, texts: pa.StringArray, vds: Floats, gains: Floats) -> None:
        """[T] each. Ids are from 0."""
        if not len(ids):
            return
        size = max(len(self._counts), int(ids.max()) + 1)
        for name in ("_counts", "_vds", "_gains", "_most"):
            values: np.ndarray = getattr(self, name)
            setattr(self, name, np.pad(values, (0, size - len(values))))
        self._counts += np.bincount(ids, minlength=size)
        self._vds += np.bincount(ids, vds, size)
        self._gains += np.bincount(ids, gains, size)
        np.maximum.at(self._most, ids, vds)
        self._name(ids, texts)

    def most(self, min_count: int) -> list[TokenFigures]:
        """Of those that occurred so often at least, the ones with the highest mean VDS: SHOWN, or half of them."""
        ranked = self._ranked(min_count)
        return [self._figures(int(i)) for i in ranked[: min(SHOWN, -(-len(ranked) // 2))]]

    def least(self, min_count: int) -> list[TokenFigures]:
        """Those with the lowest, lowest first; none is among the most."""
        ranked = self._ranked(min_count)[::-1]
        return [self._figures(int(i)) for i in ranked[: min(SHOWN, len(ranked) // 2)]]

    def _ranked(self, min_count: int) -> np.ndarray:
        often = np.flatnonzero(self._counts >= max(min_count, 1))
        means = self._vds[often] / self._counts[often]
        return often[np.lexsort((often, -means))]

    def _figures(self, id: int) -> TokenFigures:
        count = int(self._counts[id])
        mean, gain = self._vds[id] / count, self._gains[id] / count
        return TokenFigures(
            id, self._texts[id], count, float(mean), float(self._most[id]), float(gain)
        )

    def _name(self, ids: Ids, texts: pa.StringArray) -> None:
        """Keep the first text that an id came with."""
        found, first = np.unique(ids, return_index=True)
        for id, place in zip(found.tolist(), first.tolist(), strict=True):
            if not self._texts.get(id):
                self._texts[id] = texts[place].as_py() or ""


def as_rows(figures: list[TokenFigures]) -> list[dict[str, Any]]:
    """For the page."""
    return [asdict(one) for one in figures]
