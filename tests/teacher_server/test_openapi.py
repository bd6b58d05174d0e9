"""The OpenAPI document against the real server: every answer is one that it names, and none is the server's fault."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from teacher_server.gateway.app import make_app
from teacher_server.gateway.http_server import running_gateway
from teacher_server.metrics import Metrics
from tests.server_thread import in_thread
from tests.tiny_core import tiny_core

CHECKS = (
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
TRIES = 60
"""Of each route."""


@schemathesis.serializer("application/x-ndjson")
def lines(context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def address(qwen: Path) -> Iterator[str]:
    """The gateway over the real core and engine, in a thread of its own."""

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        metrics = Metrics()
        async with tiny_core(qwen, metrics) as core:
            app = make_app(core, metrics, lambda: None)
            async with running_gateway(app, "127.0.0.1", 0) as found:
                yield found

    with in_thread("gateway", serve) as found:
        yield found


@pytest.fixture(scope="module")
def document(address: str) -> Any:
    return schemathesis.openapi.from_url(f"http://{address}/v1/openapi.json")


def test_it_names_every_route(document: Any):
    paths = {operation.ok().path for operation in document.get_all_operations()}
    assert paths == {
        *("/health/live", "/health/ready", "/metrics", "/v1/teacher", "/v1/examples"),
        *("/v1/score", "/v1/score/batch"),
    }


@pytest.mark.parametrize("mode", ["topk", "vds_only", "sampled_only"])
@pytest.mark.parametrize("accept", ["application/json", "application/msgpack"])
def test_scores_are_as_documented(document: Any, mode: str, accept: str):
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}],
        "response": "4",
        "mode": mode,
    }
    case = document["/v1/score"]["POST"].Case(
        body=body, media_type="application/json", headers={"Accept": accept}
    )
    response = case.call(timeout=30)
    assert response.status_code == 200
    case.validate_response(response, checks=CHECKS)


def test_every_answer_is_a_documented_one(document: Any):
    statuses: dict[str, set[int]] = {}
    for found in document.get_all_operations():
        operation = found.ok()

        @hypothesis.settings(
            max_examples=TRIES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            response = case.call(timeout=30)
            status = response.status_code
            statuses.setdefault(case.path, set()).add(status)
            case.validate_response(response, checks=CHECKS)
            if status >= 500:  # only a time that the caller itself set too short may pass
                assert status == 504
                assert case.body["deadline_s"] < 1

        ask()
    assert 422 in statuses["/v1/score"], "bad ones were tried"
    assert {200, 401} >= statuses["/v1/score/batch"] >= {200}
    assert 200 in statuses["/v1/teacher"]
