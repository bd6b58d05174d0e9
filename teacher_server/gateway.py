"""The HTTP face: health, numbers for Prometheus, and who the teacher is. It scores nothing yet."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

import uvicorn
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from protos.address import host_for_url
from protos.errors import Unavailable
from protos.teacher_info import TeacherInfo
from teacher_server.core import TeacherCore
from teacher_server.metrics import Metrics
from teacher_server.problem import Problem, answer, answer_with_problems, problem

NotReady = Literal["loading", "draining", "engine dead"]


class Health(BaseModel):
    """The body of a health check that succeeds."""

    status: Literal["live", "ready"]


def make_app(
    core: TeacherCore | None, metrics: Metrics, not_ready: Callable[[], NotReady | None]
) -> FastAPI:
    """The application. `not_ready` says why nothing can be scored at the moment, or None.

    While the engine loads there is no core: set `app.state.core` once there is. Routes that need it answer 503 before.
    """
    app = FastAPI(
        title="Teacher", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json"
    )  # the pages behind docs_url and redoc_url load scripts from elsewhere
    app.state.core = core
    answer_with_problems(app)
    app.include_router(_operators(metrics, not_ready))
    app.include_router(_callers())
    return app


def _operators(metrics: Metrics, not_ready: Callable[[], NotReady | None]) -> APIRouter:
    router = APIRouter()

    @router.get("/health/live")
    async def live() -> Health:
        """200 as long as the server's event loop runs."""
        return Health(status="live")

    @router.get("/health/ready", response_model=Health, responses={503: {"model": Problem}})
    async def ready() -> Health | Response:
        """200 if what is sent now can be scored."""
        reason = not_ready()
        if reason is None:
            return Health(status="ready")
        detail = f"the teacher is not ready: {reason}"
        return answer(problem(503, detail, code="UNAVAILABLE", reason=reason))

    # On the event loop, not on a thread: what the callbacks read changes on the loop alone.
    @router.get("/metrics", response_class=Response)
    async def scrape() -> Response:
        """Prometheus' text format."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _callers() -> APIRouter:
    router = APIRouter(prefix="/v1", responses={503: {"model": Problem}})

    @router.get("/teacher")
    async def teacher(request: Request) -> TeacherInfo:
        """Identity, limits and capabilities: the same as the gRPC method Describe."""
        return _core_of(request).info

    return router


def _core_of(request: Request) -> TeacherCore:
    core: TeacherCore | None = request.app.state.core
    if core is None:
        raise Unavailable("the teacher is still loading; ask again in a while")
    return core


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def running_gateway(
    app: FastAPI, host: str, port: int, grace_s: float = 5.0
) -> AsyncIterator[str]:
    """Serve `app` in this event loop, at the address given; port 0 picks a free one.

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
