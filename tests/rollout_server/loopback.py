"""A real rollout server on a loopback port, over the real vLLM, with the event loop in a thread of its own."""

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from rollout_server.config import ServeConfig
from rollout_server.engine import Engine
from rollout_server.serve import running_server, start_engine
from tests.server_thread import in_thread

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

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with running_server(config, await engine_of(config)) as address:
            yield address

    with in_thread("rollout-server", serve) as address:
        yield address
