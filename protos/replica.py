"""One server of a teacher: connected, watched, and connected anew after it was away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal

from protos.backoff import Backoff
from protos.connection import Connection, ConnectionSettings
from protos.errors import (
    NotAllowed,
    PreconditionFailed,
    TeacherError,
    Unauthenticated,
    Unavailable,
)
from protos.teacher_info import TeacherInfo
from protos.wire_stats import WireStats

log = logging.getLogger(__name__)

State = Literal["connecting", "up", "draining", "away", "refused"]
HOPELESS = (PreconditionFailed, Unauthenticated, NotAllowed)
"""What another attempt will hardly change. It is made all the same, seldom: somebody may mend it."""
RECONNECT_S = (0.1, 5.0)
"""Bounds of the wait between attempts."""
REFUSED_S = 60.0
"""Wait after a refusal."""


class Replica:
    """`judge` raises PreconditionFailed for a server that is not the teacher; `changed` is called when `state` is."""

    def __init__(
        self,
        address: str,
        settings: ConnectionSettings,
        stats: WireStats,
        judge: Callable[[Replica, TeacherInfo], None],
        changed: Callable[[], None],
        attempt_s: float,
    ) -> None:
        self.address = address
        self.failure: TeacherError | None = None
        """Why the last connection ended or none was made."""
        self.promised_tokens = 0.0
        """Response tokens under way or still to come for prompts put here; the client's estimate."""
        self._settings = settings
        self._stats = stats
        self._judge = judge
        self._changed = changed
        self._attempt_s = attempt_s
        self._connection: Connection | None = None
        self._closing = False
        self._runner = asyncio.create_task(self._run())

    @property
    def connection(self) -> Connection | None:
        """The live one."""
        return self._connection

    @property
    def state(self) -> State:
        """Only one that is "up" is given anything new; a "draining" one finishes what it has."""
        if self._connection is not None and self._connection.alive:
            return "draining" if self._closing or self._connection.draining else "up"
        if self.failure is None:
            return "connecting"
        return "refused" if isinstance(self.failure, HOPELESS) else "away"

    def refuse(self, error: TeacherError) -> None:
        """It is not the teacher after all: end its connection."""
        if self._connection is not None:
            self._connection.end(error)

    def leave(self) -> None:
        """Its address is gone from the name: take nothing new, and end when the connection does."""
        self._closing = True
        if self._connection is None:
            self._runner.cancel()

    async def close(self) -> None:
        """End the connection; what waits on it fails."""
        self._runner.cancel()
        await asyncio.wait({self._runner})
        if self._connection is not None:
            await self._connection.close()

    async def _run(self) -> None:
        backoff = Backoff(*RECONNECT_S)
        while not self._closing:
            connection = Connection(
                self.address, self._settings, self._stats, on_health=self._changed
            )
            try:
                info = await connection.connect(self._attempt_s)
                self._judge(self, info)
            except (TeacherError, ValueError, OSError) as error:
                self._fail(error)
                await connection.close()
            except BaseException:
                await connection.close()
                raise
            else:
                backoff.reset()
                self._connection, self.failure = connection, None
                self._changed()
                reason = await connection.ended()
                self._connection = None
                self._fail(reason)
                await connection.close()
            refused = self.state == "refused"
            await asyncio.sleep(REFUSED_S if refused else backoff.next_s())

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, TeacherError):
            error = PreconditionFailed(f"{self.address}: {error}")
        if type(error) is not type(self.failure):  # said once, not at every attempt
            say = log.error if isinstance(error, HOPELESS) else log.warning
            say("replica_lost address=%s reason=%s", self.address, error)
        self.failure = error
        self._changed()


def nobody(replicas: list[Replica]) -> TeacherError:
    """Why none of these can be asked: the refusal where all refuse, else the outage, with every reason."""
    failures = [replica.failure for replica in replicas if replica.failure is not None]
    if len(failures) == len(replicas) and all(isinstance(one, HOPELESS) for one in failures):
        return failures[0].again()
    reasons = "; ".join(dict.fromkeys(failure.message for failure in failures))
    names = ", ".join(replica.address for replica in replicas)
    return Unavailable(reasons or f"no teacher answers at {names or 'no address'}")
