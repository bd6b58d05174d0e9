"""Whose turn it is: start-time fair queueing of items with a cost, by client, in two priorities.

Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996). Each client has a line of its own. The start of the
first item in a line is the virtual time, or where the client's last served item ended if that is later; an item ends
cost / weight behind its start. The line with the earliest start is served next, and virtual time is the start last
served. A client that offers more than its share waits behind its own items, and one that was away gains nothing by it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from protos.item import Priority

PRIORITIES: tuple[Priority, ...] = ("train", "score")
"""The first is always served before the second."""
FEW_LINES = 8
"""So many cost nothing to keep, whether anybody waits in them or not."""

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
        self._waiting = 0
        self._most_lines = FEW_LINES

    def __len__(self) -> int:
        return self._waiting

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
        line = self._lines.get((priority, client))
        if line is None:
            line = self._lines[priority, client] = _Line()
        line.turns[turn.number] = turn
        self._waiting += 1
        return turn

    def peek(self) -> Turn[T] | None:
        """Return whose turn it is; of equal starts, who came first."""
        for priority in PRIORITIES:
            now = self._now[priority]
            heads = [
                (line.end if line.end > now else now, next(iter(line.turns)), line)
                for (of, _), line in self._lines.items()
                if of == priority and line.turns
            ]
            if heads:
                _, number, line = min(heads, key=lambda head: head[:2])
                return line.turns[number]
        return None

    def line_of(self, turn: Turn[T], most: int | None = None) -> list[Turn[T]]:
        """What waits in the line of `turn`, first come first, the first `most` of it."""
        line = self._lines.get((turn.priority, turn.client))
        return [] if line is None else list(itertools.islice(line.turns.values(), most))

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
        if line is not None and line.turns.pop(turn.number, None) is not None:
            self._waiting -= 1
            self._forget_the_gone()

    def _start(self, key: tuple[Priority, str]) -> float:
        return max(self._now[key[0]], self._lines[key].end)

    def _charge(self, turn: Turn[T]) -> None:
        key = turn.priority, turn.client
        line = self._lines[key]
        del line.turns[turn.number]
        self._waiting -= 1
        line.end = self._start(key) + turn.cost / turn.weight
        self._forget_the_gone()

    def _forget_the_gone(self) -> None:
        """A line with nothing in it matters only while its last item lies in the future.

        They are looked for once there are twice as many as were left, so that an item's share of it stays small.
        """
        if not self._waiting:  # begin anew: numbers stay small
            self._lines.clear()
            self._most_lines = FEW_LINES
            self._now = dict.fromkeys(PRIORITIES, 0.0)
            return
        if len(self._lines) <= self._most_lines:
            return
        gone = [
            k for k, line in self._lines.items() if not line.turns and line.end <= self._now[k[0]]
        ]
        for key in gone:
            del self._lines[key]
        self._most_lines = max(FEW_LINES, 2 * len(self._lines))
