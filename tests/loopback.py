"""A real server on a loopback port, in a thread of its own, over the real engine."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from teacher_server.config import ServeConfig
from teacher_server.serve import running_server, start_engine


@contextlib.contextmanager
def serving(model: Path, **settings: Any) -> Iterator[str]:
    """Address of a server with `settings` (sections of ServeConfig) for `model`."""
    settings.setdefault("engine", {})
    settings["engine"] = {"device": "cpu", "threads": 1} | settings["engine"]
    if settings["engine"].get("kind") == "vllm":
        del settings["engine"]["device"]
    config = ServeConfig.model_validate(
        {"model": str(model), "server": {"port": 0, "grace_s": 5}} | settings
    )
    ready = threading.Event()
    result: dict[str, Any] = {}

    async def run() -> None:
        result["stop"] = asyncio.Event()
        result["loop"] = asyncio.get_running_loop()
        engine = await start_engine(config)
        async with running_server(config, engine) as address:
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

    thread = threading.Thread(target=target, name="server")
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
