"""The HTTP application: health, numbers for Prometheus, who the teacher is, scoring, and the explorer page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from protos.teacher_info import TeacherInfo
from teacher_server.core import TeacherCore
from teacher_server.doorkeeper import Doorkeeper
from teacher_server.gateway.caller import Known, identify
from teacher_server.gateway.examples import Example
from teacher_server.gateway.page_routes import page_router
from teacher_server.gateway.problem import Problem, answer, answer_with_problems, problem
from teacher_server.gateway.score_request import ScoreRequest
from teacher_server.gateway.score_routes import PROBLEMS, BatchLine, score_router
from teacher_server.metrics import Metrics

NotReady = Literal["loading", "draining", "engine dead"]


class Health(BaseModel):
    """The body of a health check that succeeds."""

    status: Literal["live", "ready"]


def make_app(
    core: TeacherCore | None,
    metrics: Metrics,
    not_ready: Callable[[], NotReady | None],
    doorkeeper: Doorkeeper | None = None,
    examples: tuple[Example, ...] = (),
    open_metrics: bool = True,
) -> FastAPI:
    """The application. `not_ready` says why nothing can be scored at the moment, or None; `open_metrics`: to whoever
    asks, else to the doorkeeper's clients.

    While the engine loads there is no core: set `app.state.core` once there is. Routes that need it answer 503 before.
    """
    app = FastAPI(
        title="Teacher", docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json"
    )  # the pages behind docs_url and redoc_url load scripts from elsewhere
    app.state.core = core
    app.state.not_ready = not_ready
    app.state.doorkeeper = doorkeeper or Doorkeeper()
    answer_with_problems(app)
    app.include_router(_operators(metrics, not_ready, open_metrics))
    app.include_router(_callers())
    app.include_router(score_router())
    app.include_router(page_router(examples))
    app.openapi = lambda: _openapi(app)
    return app


def _operators(
    metrics: Metrics, not_ready: Callable[[], NotReady | None], open_metrics: bool
) -> APIRouter:
    router = APIRouter()

    @router.get("/health/live")
    async def live() -> Health:
        """200 as long as the server's event loop runs."""
        return Health(status="live")

    @router.get("/health/ready", response_model=Health, responses={503: PROBLEMS[503]})
    async def ready() -> Health | Response:
        """200 if what is sent now can be scored."""
        reason = not_ready()
        if reason is None:
            return Health(status="ready")
        detail = f"the teacher is not ready: {reason}"
        return answer(problem(503, detail, code="UNAVAILABLE", reason=reason))

    # On the event loop, not on a thread: what the callbacks read changes on the loop alone.
    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: PROBLEMS[401]},
    )
    async def scrape(request: Request) -> Response:
        """Prometheus' text format."""
        if not open_metrics:
            identify(request)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router


def _callers() -> APIRouter:
    router = APIRouter(prefix="/v1", responses={n: PROBLEMS[n] for n in (401, 403, 503)})

    @router.get("/teacher")
    async def teacher(call: Known) -> TeacherInfo:
        """Identity, limits (the caller's own quotas among them) and capabilities: the same as gRPC's Describe."""
        return call.client.info(call.core.info)

    return router


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the models that routes read and write themselves."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _, schemas = models_json_schema(
            [
                (ScoreRequest, "validation"),
                (BatchLine, "serialization"),
                (Problem, "serialization"),
            ],
            ref_template="#/components/schemas/{model}",
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        app.openapi_schema = document
    return app.openapi_schema
