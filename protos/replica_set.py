"""All servers of one teacher: which of them is asked next, and what to do when there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from protos.address import host_of
from protos.agreement import difference
from protos.connection import ConnectionSettings
from protos.errors import Cancelled, ErrorDetail, PreconditionFailed, TeacherError, Unavailable
from protos.replica import Replica, nobody
from protos.teacher_info import TeacherInfo
from protos.wire_stats import WireStats

log = logging.getLogger(__name__)

DNS = "dns:///"
RESOLVE_EVERY_S = 30.0
SAY_EVERY_S = 60.0
"""How often an outage is told."""
GATHER_S = 2.0
"""Once one replica has answered, how long the others have to take part in the first comparison."""
ATTEMPT_S = 10.0
"""Longest attempt to reach one replica."""
LAST_WORD_S = 0.5
"""An attempt that began at once ends by itself, and says why."""


class TeacherAway(Unavailable):
    """No replica came back within `outage_s`."""


class ReplicaSet:
    """Owns the replicas' connections. Every address is "host:port", or "dns:///host:port" for all that a name has."""

    def __init__(
        self,
        addresses: Sequence[str],
        settings: ConnectionSettings,
        stats: WireStats,
        connect_timeout_s: float,
        outage_s: float,
    ) -> None:
        self.info: TeacherInfo | None = None
        """Of the replicas that agree; known once connected."""
        self.replicas: list[Replica] = []
        self._addresses = list(addresses)
        self._found: dict[str, list[str]] = {}
        """What each of them was last resolved to."""
        self._settings = settings
        self._stats = stats
        self._connect_timeout_s = connect_timeout_s
        self._outage_s = outage_s
        self._described: dict[Replica, TeacherInfo] = {}
        self._compared = asyncio.Event()
        self._changed = asyncio.Event()
        self._closed = False
        self._said_s = float("-inf")
        self._resolver: asyncio.Task[None] | None = None

    async def connect(self) -> TeacherInfo:
        """Reach at least one replica; raises a TeacherError where none answers or all are refused."""
        await self._resolve_in_time()
        if any(address.startswith(DNS) for address in self._addresses):
            self._resolver = asyncio.create_task(self._resolve_again())
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._connect_timeout_s + LAST_WORD_S
        while not self._described:
            refused = all(replica.state == "refused" for replica in self.replicas)
            if refused or not await self._change(ends_s - loop.time()):
                raise nobody(self.replicas)
        gathered_s = min(ends_s, loop.time() + GATHER_S)
        while any(self._undecided(replica) for replica in self.replicas):
            if not await self._change(gathered_s - loop.time()):
                break
        self.info = self._majority()
        self._compared.set()
        return self.info

    async def choose(self, but: Replica | None = None, since_s: float | None = None) -> Replica:
        """The least loaded replica that is up; where there is none, wait until `outage_s` after `since_s` (None: now).

        Raises TeacherAway after that, and the refusal where every replica refuses this client.
        """
        loop = asyncio.get_running_loop()
        since_s = loop.time() if since_s is None else since_s
        while (best := self.best(but)) is None:
            if self._closed:
                raise Cancelled("the client was closed")
            if self.replicas and all(replica.state == "refused" for replica in self.replicas):
                raise nobody(self.replicas)
            left_s = since_s + self._outage_s - loop.time()
            if left_s <= 0:
                raise TeacherAway(
                    f"the teacher has been away for {loop.time() - since_s:.0f} s: {nobody(self.replicas).message}",
                    ErrorDetail("outage_s", limit=f"{self._outage_s:g}"),
                )
            if loop.time() >= self._said_s + SAY_EVERY_S:
                self._said_s = loop.time()
                log.warning(
                    "teacher_away waited_s=%.0f limit_s=%.0f reason=%s",
                    loop.time() - since_s,
                    self._outage_s,
                    nobody(self.replicas).message,
                )
            await self._change(min(left_s, SAY_EVERY_S))
        return best

    def best(self, but: Replica | None = None) -> Replica | None:
        """The least loaded replica that is up, if any."""
        up = [one for one in self.replicas if one.state == "up" and one is not but]
        return min(up, key=lambda one: one.promised_tokens, default=None)

    async def close(self) -> None:
        """End every connection; who waits for one fails with Cancelled."""
        self._closed = True
        if self._resolver is not None:
            self._resolver.cancel()
        await asyncio.gather(*(replica.close() for replica in self.replicas))
        self._on_change()

    # ------------------------------------------------------------------------------------ change

    def _on_change(self) -> None:
        # Whoever waits holds the old event; the next ones get a new one.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self, timeout_s: float) -> bool:
        """Wait for a replica's state to change; whether it did in time."""
        try:
            await asyncio.wait_for(self._changed.wait(), max(0.0, timeout_s))
        except TimeoutError:
            return False
        return True

    # --------------------------------------------------------------------------------- agreement

    def _undecided(self, replica: Replica) -> bool:
        return replica not in self._described and replica.failure is None

    def _judge(self, replica: Replica, info: TeacherInfo) -> None:
        """Called with every new connection's description."""
        self._described[replica] = info
        if self.info is not None:
            self._refuse_another(replica, info, self.info)

    def _majority(self) -> TeacherInfo:
        """What most replicas say, of equal numbers who stands first; the others are refused."""
        order = [replica for replica in self.replicas if replica in self._described]
        infos = [self._described[replica] for replica in order]
        votes = Counter(
            next(i for i, other in enumerate(infos) if difference(other, info) is None)
            for info in infos
        )
        chosen = infos[max(votes, key=lambda i: (votes[i], -i))]
        for replica, info in zip(order, infos, strict=True):
            try:
                self._refuse_another(replica, info, chosen)
            except TeacherError as error:
                replica.refuse(error)
        return chosen

    @staticmethod
    def _refuse_another(replica: Replica, info: TeacherInfo, reference: TeacherInfo) -> None:
        differs = difference(reference, info)
        if differs is not None:
            raise PreconditionFailed(
                f"{replica.address} is another teacher than its fellows: {differs}; give it an entry of its own",
                ErrorDetail("address", replica.address),
            )

    # --------------------------------------------------------------------------------- addresses

    async def _resolve(self) -> None:
        wanted: dict[str, ConnectionSettings] = {}
        failure: Unavailable | None = None
        for address in self._addresses:
            try:
                self._found[address] = await _lookup(address)
            except Unavailable as error:  # one name's failure is not the others', nor the teacher's
                failure = error
            found = self._found.get(address, [])
            wanted |= dict.fromkeys(found, self._settings_for(address))
        if failure is not None and not wanted:
            raise failure
        known = {replica.address for replica in self.replicas}
        for address, settings in wanted.items():
            if address not in known:
                attempt_s = min(ATTEMPT_S, self._connect_timeout_s)
                self.replicas.append(
                    Replica(
                        *(address, settings, self._stats, self._judge, self._on_change),
                        attempt_s=attempt_s,
                    )
                )
        for replica in [one for one in self.replicas if one.address not in wanted]:
            self.replicas.remove(replica)
            self._described.pop(replica, None)
            replica.leave()

    def _settings_for(self, address: str) -> ConnectionSettings:
        """A certificate bears the name, not the addresses that are found under it."""
        credentials = self._settings.credentials
        if not address.startswith(DNS) or credentials.server_name or not credentials.encrypted:
            return self._settings
        named = replace(credentials, server_name=host_of(address.removeprefix(DNS)))
        return replace(self._settings, credentials=named)

    async def _resolve_in_time(self) -> None:
        """A name may have no address before its first server is ready."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._connect_timeout_s
        while True:
            try:
                return await self._resolve()
            except Unavailable:
                if loop.time() >= ends_s:
                    raise
                await asyncio.sleep(0.5)

    async def _resolve_again(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_EVERY_S)
            with contextlib.suppress(Unavailable):
                await self._resolve()


async def _lookup(address: str) -> list[str]:
    """Every address that a name has, in a stable order; an address is its own."""
    if not address.startswith(DNS):
        return [address]
    host, _, port = address.removeprefix(DNS).rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise Unavailable(f"can't resolve {address}: {error}; is it dns:///HOST:PORT?") from error
    hosts = {entry[4][0] for entry in found}
    return sorted(f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}" for host in hosts)
