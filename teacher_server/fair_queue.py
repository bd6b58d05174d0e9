"""Whose turn it is: start-time fair queueing of items with a cost, by client, in two priorities.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996). Each client has a line of its own. The start of the
first item in a line is the virtual time, or where the client's last served item ended if that is later; an item ends
cost / weight behind its start. The line with the earliest start is served next, and virtual time is the start last
served. A client that offers more than its share waits behind its own items, and one that was away gains nothing by it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from protos.item import Priority

PRIORITIES: tuple[Priority, ...] = ("train", "score")
"""The first is always served before the second."""

T = TypeVar("T")


@dataclass(eq=False)
class Turn(Generic[T]):
    """An item in the queue."""

    item: T
    client: str
    cost: int
    """Tokens."""
    priority: Priority
    weight: float
    number: int
    """Of arrival."""


@dataclass(eq=False)
class _Line(Generic[T]):
    turns: dict[int, Turn[T]] = field(default_factory=dict)
    """By number, in the order of arrival."""
    end: float = 0.0
    """Virtual time at which the last served item ended."""


class FairQueue(Generic[T]):
    """Items wait here until they are taken or withdrawn."""

    def __init__(self) -> None:
        self._lines: dict[tuple[Priority, str], _Line[T]] = {}
        self._now: dict[Priority, float] = dict.fromkeys(PRIORITIES, 0.0)
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return sum(len(line.turns) for line in self._lines.values())

    def push(
        self,
        item: T,
        client: str,
        cost: int,
        priority: Priority = "train",
        weight: float = 1.0,
    ) -> Turn[T]:
        """Put an item at the end of its client's line; `cost` counts from 1. A client of twice the weight gets twice
        as much where both wait.
        """
        turn = Turn(item, client, max(1, cost), priority, weight, next(self._arrivals))
        self._lines.setdefault((priority, client), _Line()).turns[turn.number] = turn
        return turn

    def peek(self) -> Turn[T] | None:
        """Return whose turn it is; of equal starts, who came first."""
        for priority in PRIORITIES:
            heads = [
                (self._start(key), next(iter(line.turns.values())))
                for key, line in self._lines.items()
                if key[0] == priority and line.turns
            ]
            if heads:
                return min(heads, key=lambda head: (head[0], head[1].number))[1]
        return None

    def line_of(self, turn: Turn[T]) -> Iterable[Turn[T]]:
        """What waits in the line of `turn`, first come first."""
        line = self._lines.get((turn.priority, turn.client))
        return [] if line is None else list(line.turns.values())

    def take(self, turn: Turn[T]) -> None:
        """Serve the one whose turn it is."""
        self._now[turn.priority] = self._start((turn.priority, turn.client))
        self._charge(turn)

    def take_along(self, turn: Turn[T]) -> None:
        """Serve one out of turn, because it is cheap to: its client is charged, and nobody else's turn moves."""
        self._charge(turn)

    def withdraw(self, turn: Turn[T]) -> None:
        """It is not wanted any more, and costs nothing; no error if it was taken already."""
        line = self._lines.get((turn.priority, turn.client))
        if line is not None:
            line.turns.pop(turn.number, None)
            self._forget_the_gone()

    def _start(self, key: tuple[Priority, str]) -> float:
        return max(self._now[key[0]], self._lines[key].end)

    def _charge(self, turn: Turn[T]) -> None:
        key = turn.priority, turn.client
        line = self._lines[key]
        del line.turns[turn.number]
        line.end = self._start(key) + turn.cost / turn.weight
        self._forget_the_gone()

    def _forget_the_gone(self) -> None:
        """A line with nothing in it matters only while its last item lies in the future."""
        if not len(self):  # begin anew: numbers stay small
            self._lines.clear()
            self._now = dict.fromkeys(PRIORITIES, 0.0)
            return
        gone = [
            k for k, line in self._lines.items() if not line.turns and line.end <= self._now[k[0]]
        ]
        for key in gone:
            del self._lines[key]
