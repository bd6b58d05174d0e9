"""Halves of responses that wait for each other: the same rows under mm and under text come in two requests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Half(Generic[T]):
    context: str
    content: T
    rows: int


class PairTable(Generic[T]):
    """Halves of at most `capacity` rows in all; the oldest goes first.

    What happens here depends on the calls alone, never on a clock: the ranks of a tensor-parallel engine each hold a
    table and must agree on it. Eviction by time is the front end's, which has every rank drop the same keys.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows = 0
        self._halves: OrderedDict[str, _Half[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._halves)

    def join(self, key: str, context: str, content: T, rows: int) -> T | None:
        """Return the other context's half and forget it, or park this one. The same context again replaces itself."""
        waiting = self._pop(key)
        if waiting is not None and waiting.context != context:
            return waiting.content
        self._halves[key] = _Half(context, content, rows)
        self._rows += rows
        while self._rows > self._capacity:
            self._pop(next(iter(self._halves)))
        return None

    def drop(self, keys: Iterable[str]) -> None:
        """Forget these; unknown ones are no error."""
        for key in keys:
            self._pop(key)

    def keys(self) -> list[str]:
        """Of the halves that wait, oldest first."""
        return list(self._halves)

    def _pop(self, key: str) -> _Half[T] | None:
        half = self._halves.pop(key, None)
        if half is not None:
            self._rows -= half.rows
        return half
