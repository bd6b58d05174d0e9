"""An asynchronous server for tests: its event loop in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any


@contextlib.contextmanager
def in_thread(name: str, serve: Callable[[], AbstractAsyncContextManager[str]]) -> Iterator[str]:
    """Address of what `serve` yields; it is left, in its own loop, when this context is."""
    ready = threading.Event()
    result: dict[str, Any] = {}

    async def run() -> None:
        result["stop"] = asyncio.Event()
        result["loop"] = asyncio.get_running_loop()
        async with serve() as address:
            result["address"] = address
            ready.set()
            await result["stop"].wait()

    def target() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            result["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=target, name=name)
    thread.start()
    ready.wait()
    if "address" not in result:
        thread.join()
        raise result["error"]
    try:
        yield result["address"]
    finally:
        result["loop"].call_soon_threadsafe(result["stop"].set)
        thread.join()
    if "error" in result:
        raise result["error"]
