"""Halves that the engine keeps for somebody who has gone: found, and dropped on every rank."""

from __future__ import annotations

import asyncio
import logging

from vllm.v1.engine.async_llm import AsyncLLM

log = logging.getLogger(__name__)

DROP_DELAY_S = 0.05
CALL_TIMEOUT_S = 10.0
"""A dead engine never answers a call."""


class Leftovers:
    """Keys are given out here, and come back when nobody waits for them any more."""

    def __init__(self, llm: AsyncLLM, sweep_every_s: float) -> None:
        self._llm = llm
        self._sweep_every_s = sweep_every_s
        self._live: set[str] = set()
        self._last = 0
        self._abandoned: set[str] = set()
        self._dropping: asyncio.Task[None] | None = None
        self._sweeper = asyncio.create_task(self._sweep())

    def new_key(self) -> str:
        """A key that somebody waits for until it is settled or abandoned."""
        self._last += 1
        key = str(self._last)
        self._live.add(key)
        return key

    def settle(self, key: str) -> None:
        """Both halves met, so that nothing of it is parked."""
        self._live.discard(key)

    def abandon(self, key: str) -> None:
        """A half may be parked, or still come to be: the requests were aborted before."""
        self._live.discard(key)
        self._abandoned.add(key)
        if self._dropping is None or self._dropping.done():
            self._dropping = asyncio.create_task(self._drop_soon())

    async def parked_keys(self) -> list[str]:
        """Of all copies of the model; within one, ranks that score hold the same and others nothing."""
        copies = await asyncio.wait_for(
            self._llm.engine_core.call_utility_all_async(
                "collective_rpc", "parked_keys", None, (), None
            ),
            CALL_TIMEOUT_S,
        )
        return [key for ranks in copies for key in max(ranks, key=len)]

    async def drop_stale(self) -> None:
        """Whatever is parked and not waited for goes, however it was left behind."""
        parked = await self.parked_keys()
        if stale := [key for key in parked if key not in self._live]:
            log.warning("stale_pairs=%d", len(stale))
            await self._drop(stale)

    def close(self) -> None:
        """Look no further."""
        self._sweeper.cancel()
        if self._dropping is not None:
            self._dropping.cancel()

    async def _drop(self, keys: list[str]) -> None:
        call = self._llm.collective_rpc("drop_parked", args=(keys,))
        await asyncio.wait_for(call, CALL_TIMEOUT_S)

    async def _drop_soon(self) -> None:
        """Cancels come in crowds: one call for those of a moment. What is missed here, the sweep finds."""
        while self._abandoned and not self._llm.errored:
            await asyncio.sleep(DROP_DELAY_S)
            keys, self._abandoned = sorted(self._abandoned), set()
            try:
                await self._drop(keys)
            except Exception:
                log.exception("drop_failed keys=%d", len(keys))

    async def _sweep(self) -> None:
        while not self._llm.errored:
            await asyncio.sleep(self._sweep_every_s)
            try:
                await self.drop_stale()
            except Exception:
                log.exception("sweep_failed")
