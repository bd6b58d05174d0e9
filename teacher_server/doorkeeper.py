"""Says who a caller is, and again when the clients file changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from teacher_server.client import Client
from teacher_server.client_file import ClientFile, Presented

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class Doorkeeper:
    """Without a clients file everybody may come in: under their certificate's name, or as their connection."""

    def __init__(self, clients: ClientFile | None = None) -> None:
        self._clients = clients

    def identify(self, presented: Presented, peer: str) -> Client:
        """Who showed this from the address `peer`; raises Unauthenticated or NotAllowed."""
        if self._clients is not None:
            return self._clients.identify(presented)
        if presented.certificate_names:
            name = presented.certificate_names[0]
            return Client(name, name)
        return Client(peer)

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Until cancelled: call `on_change` when clients came, went or changed."""
        while self._clients is not None:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                # In a thread: a file system that hangs must not hold up the streams.
                if await asyncio.to_thread(self._clients.refresh):
                    on_change()
            except Exception:  # a watch that ended would revoke nobody any more
                log.exception("clients_file_watch_failed; tried again")
