"""A thin synchronous face of TeacherClient, for notebooks, scripts and the trainer's loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from protos.client import PutPrompt, TeacherClient
from protos.item import ScoreItem
from protos.prompt import AnyPrompt
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from protos.wire_stats import WireStats

T = TypeVar("T")


@functools.cache
def shared_loop() -> asyncio.AbstractEventLoop:
    """The process's one loop for synchronous clients, on a daemon thread of its own and never closed.

    gRPC's poller belongs to the process and outlives a loop: closing one leaves it calling into nothing.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="teacher-clients", daemon=True).start()
    return loop


class SyncTeacherClient:
    """TeacherClient on an event loop in a thread. Use as a context manager.

    Takes TeacherClient's arguments. `submit_*` return concurrent futures, so that many items can be under way.
    """

    def __init__(self, addresses: str | Sequence[str], **settings: Any) -> None:
        self._client = self._call(_open(addresses, settings))

    def __enter__(self) -> SyncTeacherClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def info(self) -> TeacherInfo:
        """Who the teacher is."""
        return self._client.info

    @property
    def stats(self) -> WireStats:
        """What crossed the wire so far."""
        return self._client.stats

    def put_prompt(self, prompt: AnyPrompt) -> PutPrompt:
        """See TeacherClient.put_prompt."""
        return self.submit_prompt(prompt).result()

    def submit_prompt(self, prompt: AnyPrompt) -> Future[PutPrompt]:
        """The same, as a future."""
        return self._submit(self._client.put_prompt(prompt))

    def drop_prompt(self, prompt: PutPrompt) -> None:
        """See TeacherClient.drop_prompt."""
        self._call(self._client.drop_prompt(prompt))

    def submit_drop(self, prompt: PutPrompt) -> Future[None]:
        """The same, as a future."""
        return self._submit(self._client.drop_prompt(prompt))

    def score(self, prompt: PutPrompt, item: ScoreItem) -> Scores:
        """See TeacherClient.score."""
        return self.submit_score(prompt, item).result()

    def submit_score(
        self, prompt: PutPrompt | Future[PutPrompt], item: ScoreItem
    ) -> Future[Scores]:
        """The same, as a future; the prompt may still be on its way."""
        return self._submit(self._score(prompt, item))

    def close(self) -> None:
        """End the stream; what still waits fails."""
        self._call(self._client.close())

    async def _score(self, prompt: PutPrompt | Future[PutPrompt], item: ScoreItem) -> Scores:
        if isinstance(prompt, PutPrompt):
            return await self._client.score(prompt, item)
        # The future is shared by a prompt's responses: one's end is not the others'.
        put = await asyncio.shield(asyncio.wrap_future(prompt))
        return await self._client.score(put, item)

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, shared_loop())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return self._submit(work).result()


async def _open(addresses: str | Sequence[str], settings: dict[str, Any]) -> TeacherClient:
    # asyncio primitives belong to the loop that they are made on.
    client = TeacherClient(addresses, **settings)
    try:
        await client.connect()
    except BaseException:
        await client.close()
        raise
    return client
