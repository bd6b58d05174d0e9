"""A real rollout server on a loopback port, over the real vLLM, with the event loop in a thread of its own."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from rollout_server.config import ServeConfig
from rollout_server.engine import Engine
from rollout_server.serve import running_server, start_engine

Start = Callable[[ServeConfig], Awaitable[Engine]]
ENGINE = {
    "dtype": "float32",
    "context_length": 256,
    "max_running": 8,
    "kv_cache_gib": 0.03,
    "block_size": 32,
    "eager": True,
}


@contextlib.contextmanager
def serving_rollouts(
    model: Path, engine_of: Start = start_engine, **settings: Any
) -> Iterator[str]:
    """Address of a server with `settings` (sections of ServeConfig) for `model`; `engine_of` makes the engine."""
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    settings["engine"] = ENGINE | settings.get("engine", {})
    config = ServeConfig.model_validate(
        {"model": str(model), "server": {"port": 0, "grace_s": 1}} | settings
    )
    ready = threading.Event()
    result: dict[str, Any] = {}

    async def run() -> None:
        result["stop"] = asyncio.Event()
        result["loop"] = asyncio.get_running_loop()
        engine = await engine_of(config)
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

    thread = threading.Thread(target=target, name="rollout-server")
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
