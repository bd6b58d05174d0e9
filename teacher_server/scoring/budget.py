"""How much may be under way at once, of several kinds of things."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping


class Budget:
    """One taker, who waits until there is room; whoever gives back never waits. What is larger than all goes alone."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)
        self._taken = dict.fromkeys(limits, 0)
        self._freed = asyncio.Event()

    async def take(self, **amounts: int) -> None:
        """Wait until all of `amounts` fit beside what is taken."""
        while not self._fits(amounts):
            self._freed.clear()
            await self._freed.wait()
        for name, amount in amounts.items():
            self._taken[name] += amount

    def give_back(self, **amounts: int) -> None:
        """What was taken."""
        for name, amount in amounts.items():
            self._taken[name] -= amount
        self._freed.set()

    def _fits(self, amounts: Mapping[str, int]) -> bool:
        return all(
            not self._taken[name] or self._taken[name] + amount <= self._limits[name]
            for name, amount in amounts.items()
        )
