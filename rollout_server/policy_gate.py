"""Answers of one policy at a time: samples share the gate, an update has it alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from protos.errors import ErrorDetail, PreconditionFailed
from protos.policy import Policy


class PolicyGate:
    """Knows whose weights the engine holds."""

    def __init__(self) -> None:
        self.policy: Policy | None = None
        """None: the weights of the server's start."""
        self._torn: Policy | None = None  # half loaded: nothing may be sampled
        self._sampling = 0
        self._updating = False
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def sampling(self, wanted: Policy | None) -> AsyncIterator[Policy | None]:
        """While answers of `wanted` are under way; PreconditionFailed where the engine holds another policy."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._updating)
            self._refuse_other(wanted)
            self._sampling += 1
        try:
            yield self.policy
        finally:
            async with self._changed:
                self._sampling -= 1
                self._changed.notify_all()

    @contextlib.asynccontextmanager
    async def updating(self, policy: Policy) -> AsyncIterator[None]:
        """While weights are loaded: waits for answers under way and lets none begin. Left in order, `policy` holds."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._updating)
            self._updating = True
            try:
                await self._changed.wait_for(lambda: not self._sampling)
                self.refuse_older(policy)
            except BaseException:
                self._updating = False
                self._changed.notify_all()
                raise
        self._torn = policy
        try:
            yield
            self.policy, self._torn = policy, None
        finally:
            async with self._changed:
                self._updating = False
                self._changed.notify_all()

    def refuse_older(self, policy: Policy) -> None:
        """Raise PreconditionFailed where a run would go back: its answers would be taken for newer ones."""
        held = self.policy
        if held is not None and held.run == policy.run and policy.version < held.version:
            raise PreconditionFailed(
                f"policy {policy} is older than {held}, which this server holds; a run's versions only grow",
                ErrorDetail("header.policy", str(policy), str(held)),
            )

    def _refuse_other(self, wanted: Policy | None) -> None:
        if self._torn is not None:
            raise PreconditionFailed(
                f"the update to policy {self._torn} failed half way; send the weights again",
                ErrorDetail("policy", str(wanted), ""),
            )
        if wanted is not None and wanted != self.policy:
            raise PreconditionFailed(
                f"this server holds policy {self.policy or 'of its start'}, not {wanted}; send the weights first, and "
                "let no other trainer use it",
                ErrorDetail("policy", str(wanted), str(self.policy)),
            )
