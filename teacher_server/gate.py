"""Lets jobs into an engine that has a scheduler of its own, in turns, as it has room.

Without it a client that sends all it has fills the engine's queue, and the others' jobs wait behind it there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from teacher_server.engines.engine import Job
from teacher_server.fair_queue import FairQueue
from teacher_server.metrics import Metrics, Place


@dataclass(eq=False)
class _Entry:
    cost: int
    opened: asyncio.Future[None]
    place: Place = field(init=False)


class Gate:
    """At most `capacity` tokens inside, a single job of any size excepted."""

    def __init__(self, capacity: int, metrics: Metrics | None = None) -> None:
        self._capacity = capacity
        self._metrics = metrics or Metrics()
        self._metrics.capacity(capacity)
        self._inside = 0
        self._queue: FairQueue[_Entry] = FairQueue()

    @contextlib.asynccontextmanager
    async def turn(self, job: Job) -> AsyncIterator[None]:
        """Wait for this job's turn; it is inside until the context is left."""
        priority = job.item.priority
        entry = _Entry(job.cost, asyncio.get_running_loop().create_future())
        turn = self._queue.push(entry, job.client, job.cost, priority, job.weight)
        entry.place = self._metrics.queued(job.client, priority, job.cost)
        self._open()
        try:
            await entry.opened
            with self._metrics.in_engine(priority, 1, job.cost):
                yield
        finally:
            entry.place.leave()
            self._queue.withdraw(turn)
            if entry.opened.done() and not entry.opened.cancelled():
                self._inside -= entry.cost
            self._open()

    def _open(self) -> None:
        while (turn := self._queue.peek()) is not None:
            entry = turn.item
            if entry.opened.done():  # cancelled this moment: it is neither served nor charged
                self._queue.withdraw(turn)
                continue
            if self._inside and self._inside + entry.cost > self._capacity:
                return
            self._queue.take(turn)
            entry.place.leave()
            self._inside += entry.cost
            entry.opened.set_result(None)
