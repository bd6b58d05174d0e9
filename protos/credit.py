"""Back-pressure on the client's side: how many response tokens may be on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CreditWindow:
    """Callers wait, first come first served, until both the server's grant and the client's own bound have room."""

    def __init__(self, max_inflight_tokens: int, check_alive: Callable[[], None]) -> None:
        """`check_alive` raises once the stream has failed, so that nobody waits for credit that never comes."""
        self._max_inflight_tokens = max_inflight_tokens
        self._check_alive = check_alive
        self._granted = self._spent = self._inflight = 0
        self._turn = asyncio.Lock()
        self._changed = asyncio.Condition()

    async def take(self, tokens: int) -> None:
        """Wait for room, then count `tokens` as spent."""
        async with self._turn, self._changed:
            while True:
                self._check_alive()
                # A response beyond the client's bound may go alone.
                fits = self._inflight == 0 or self._inflight + tokens <= self._max_inflight_tokens
                if fits and self._spent + tokens <= self._granted:
                    break
                await self._changed.wait()
            self._spent += tokens
            self._inflight += tokens

    async def settle(self, tokens: int, *, sent: bool) -> None:
        """An item is over; one that was never sent has spent nothing."""
        # Before anything is waited for: who is cancelled there has settled all the same.
        self._inflight -= tokens
        self._spent -= 0 if sent else tokens
        async with self._changed:
            self._changed.notify_all()

    async def grant(self, total_tokens: int) -> None:
        """The server's total since the stream opened; it only grows."""
        async with self._changed:
            self._granted = max(self._granted, total_tokens)
            self._changed.notify_all()

    async def wake(self) -> None:
        """Let those who wait look at the stream's health."""
        async with self._changed:
            self._changed.notify_all()
