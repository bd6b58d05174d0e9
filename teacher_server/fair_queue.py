"""Whose turn it is: start-time fair queueing of items with a cost, by client, in two priorities.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996): an item's start tag is the virtual time, or where its
client's last item ends if that is later; its end lies cost / weight behind. The lowest start tag is served first, and
virtual time is the start tag last served. A client that offers more than its share waits behind its own items; one
that was away gains nothing by it. The lag between two backlogged clients is bounded by their largest items.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from protos.item import Priority

PRIORITIES: tuple[Priority, ...] = ("train", "score")
"""The first is always served before the second."""

ENDS_KEPT = 1024
"""Clients remembered before those whose last item is in the past are forgotten."""

T = TypeVar("T")


@dataclass(eq=False)
class Turn(Generic[T]):
    """An item in the queue."""

    item: T
    client: str
    cost: int
    """Tokens."""
    priority: Priority
    start: float
    """Virtual time."""
    number: int
    """Of arrival."""

    @property
    def rank(self) -> tuple[int, float, int]:
        """Turns are taken in this order."""
        return PRIORITIES.index(self.priority), self.start, self.number


class FairQueue(Generic[T]):
    """Items wait here until they are taken or withdrawn."""

    def __init__(self, weight_of: Callable[[str], float] = lambda client: 1.0) -> None:
        self._weight_of = weight_of
        self._turns: list[Turn[T]] = []  # by rank
        self._arrivals = itertools.count()
        self._now: dict[Priority, float] = dict.fromkeys(PRIORITIES, 0.0)
        self._ends: dict[tuple[Priority, str], float] = {}
        self._waiting: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._turns)

    def waiting_tokens(self, client: str | None = None) -> int:
        """Cost of what waits, of one client or of all."""
        return self._waiting.total() if client is None else self._waiting[client]

    def push(self, item: T, client: str, cost: int, priority: Priority = "train") -> Turn[T]:
        """Queue an item; `cost` counts from 1."""
        if len(self._ends) > ENDS_KEPT:
            self._ends = {k: end for k, end in self._ends.items() if end > self._now[k[0]]}
        key = priority, client
        start = max(self._now[priority], self._ends.get(key, 0.0))
        self._ends[key] = start + max(1, cost) / self._weight_of(client)
        turn = Turn(item, client, max(1, cost), priority, start, next(self._arrivals))
        bisect.insort(self._turns, turn, key=_rank)
        self._waiting[client] += turn.cost
        return turn

    def in_order(self) -> Sequence[Turn[T]]:
        """All that waits, next first; equal tags in the order of arrival. Copy it before the queue changes."""
        return self._turns

    def take(self, turns: Iterable[Turn[T]]) -> None:
        """These are served now."""
        for turn in turns:
            removed = self._remove(turn)
            assert removed, "only what waits can be taken"
            self._now[turn.priority] = max(self._now[turn.priority], turn.start)
        if not self._turns:
            self._forget()

    def withdraw(self, turn: Turn[T]) -> None:
        """It is not wanted any more; no error if it was taken already."""
        if self._remove(turn):
            # What was never served is not charged to what its client asks next.
            key = turn.priority, turn.client
            if key in self._ends:
                self._ends[key] -= turn.cost / self._weight_of(turn.client)
        if not self._turns:
            self._forget()

    def _remove(self, turn: Turn[T]) -> bool:
        place = bisect.bisect_left(self._turns, turn.rank, key=_rank)
        if place == len(self._turns) or self._turns[place] is not turn:
            return False
        del self._turns[place]
        self._waiting[turn.client] -= turn.cost
        if not self._waiting[turn.client]:
            del self._waiting[turn.client]
        return True

    def _forget(self) -> None:
        """An empty queue begins anew: tags stay small, and clients that left take no room."""
        self._now = dict.fromkeys(PRIORITIES, 0.0)
        self._ends.clear()


def _rank(turn: Turn[Any]) -> tuple[int, float, int]:
    return turn.rank
