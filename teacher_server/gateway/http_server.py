"""Serves the application beside gRPC, in the same event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from fastapi import FastAPI

from protos.address import host_for_url
from teacher_server.config import TlsConfig
from teacher_server.transport import server_context


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def running_gateway(
    app: FastAPI, host: str, port: int, tls: TlsConfig | None = None, grace_s: float = 5.0
) -> AsyncIterator[str]:
    """Serve `app` in this event loop, at the address given, over TLS if there is any; port 0 picks a free one.

    Leaving the context gives what is under way `grace_s` seconds. Raises OSError where the port is taken.
    """
    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # what a route raises is logged by teacher_server.problem
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(grace_s),
    )
    config.load()
    if tls is not None:
        config.ssl = server_context(tls)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        yield f"{host_for_url(host)}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def _listen(host: str, port: int) -> socket.socket:
    six = ":" in host
    both = six and socket.has_dualstack_ipv6() and host == "::"  # as gRPC does
    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        wanted = f"{host_for_url(host)}:{port}"
        raise OSError(f"can't bind {wanted}: is another server there?") from error
