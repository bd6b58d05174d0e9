"""A real server on a loopback port, in a thread of its own, over the real engine."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from teacher_server.config import ServeConfig
from teacher_server.serve import running_server, start_engine
from tests.server_thread import in_thread


@contextlib.contextmanager
def serving(model: Path, **settings: Any) -> Iterator[str]:
    """Address of a server with `settings` (sections of ServeConfig) for `model`."""
    settings.setdefault("engine", {})
    settings["engine"] = {"device": "cpu", "threads": 1} | settings["engine"]
    config = ServeConfig.model_validate(
        {"model": str(model)}
        | settings
        | {"server": {"port": 0, "http_port": None, "grace_s": 5} | settings.get("server", {})}
    )

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with running_server(config, await start_engine(config)) as address:
            yield address

    with in_thread("server", serve) as address:
        yield address
