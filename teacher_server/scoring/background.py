"""Work in threads that is never left half done, and an event loop's work awaited from outside of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from protos.sync_client import shared_loop

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Its result. A thread can't be stopped: it is waited for even where the waiting is cancelled."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def on_shared_loop(work: Coroutine[Any, Any, T]) -> T:
    """Its result, from a thread that may have a loop of its own. An interruption cancels it, and waits for its end."""
    loop = shared_loop()
    ended = threading.Event()

    async def begin() -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: ended.set())
        return task

    task = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    try:
        ended.wait()
    except BaseException:
        loop.call_soon_threadsafe(task.cancel)
        ended.wait()
        raise
    return task.result()
