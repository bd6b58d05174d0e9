"""The HTTP face on a loopback port: real uvicorn, real core, real engine."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from protos.arrays import as_ids
from protos.errors import (
    CODES,
    ErrorDetail,
    LimitExceeded,
    TeacherError,
)
from protos.item import ScoreItem
from teacher_server.client import Client
from teacher_server.gateway.app import NotReady, make_app
from teacher_server.gateway.http_server import running_gateway
from teacher_server.gateway.problem import HTTP_STATUS
from teacher_server.metrics import Metrics
from tests.reference import Reference
from tests.tiny_core import Scrape, tiny_core


class State:
    """Why the server is not ready, as a test says."""

    reason: NotReady | None = None

    def __call__(self) -> NotReady | None:
        return self.reason


@contextlib.asynccontextmanager
async def asking(app: FastAPI, host: str = "127.0.0.1") -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running_gateway(app, host, 0) as address,
        httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client,
    ):
        yield client


def empty_app(state: State | None = None) -> FastAPI:
    return make_app(None, Metrics(), state or State())


def problem_of(response: httpx.Response, status: int) -> dict[str, object]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


async def test_a_scrape_tells_what_was_scored(qwen: Path, qwen_reference: Reference):
    metrics = Metrics(["lab"])
    async with tiny_core(qwen, metrics) as core, asking(make_app(core, metrics, State())) as http:
        before = Scrape((await http.get("/metrics")).text)
        prompt = asyncio.create_task(core.prepare(qwen_reference.prompt("what?")))
        for _ in range(2):
            await core.score(prompt, ScoreItem(as_ids([40, 50, 60]), k=4), Client("lab", "lab"))
        await core.score(prompt, ScoreItem(as_ids([40]), k=4), Client("ipv4:10.0.0.1:4242"))
        response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    now = Scrape(response.text)
    assert before("teacher_items_total") == 0
    assert now("teacher_items_total", client="lab", code="OK") == 2
    assert now("teacher_items_total", client="", code="OK") == 1
    assert now("teacher_scored_tokens_total") == 7
    assert now("teacher_prefix_tokens_total", context="alone") > 0
    assert now("teacher_build_info", teacher_id="tiny", model=qwen.name) == 1
    assert now("process_resident_memory_bytes") > 2**20
    assert "10.0.0.1" not in response.text


async def test_describe_over_http(qwen: Path):
    metrics = Metrics()
    async with tiny_core(qwen, metrics) as core, asking(make_app(core, metrics, State())) as http:
        response = await http.get("/v1/teacher")
        schema = (await http.get("/v1/openapi.json")).json()
        body = asdict(core.info)
    assert response.status_code == 200
    body["capabilities"] = list(body["capabilities"])
    body["limits"]["image_formats"] = list(body["limits"]["image_formats"])
    for name in ("forbidden_in_response", "eos"):
        body["special_ids"][name] = list(body["special_ids"][name])
    assert response.json() == body
    described = schema["components"]["schemas"]["TeacherInfo"]["properties"]
    assert set(described) == set(body)


async def test_ready_follows_the_server():
    state = State()
    async with asking(empty_app(state)) as http:
        assert (await http.get("/health/ready")).json() == {"status": "ready"}
        reasons: tuple[NotReady, ...] = ("loading", "draining", "engine dead")
        for reason in reasons:
            state.reason = reason
            body = problem_of(await http.get("/health/ready"), 503)
            assert body["reason"] == reason
            assert body["code"] == "UNAVAILABLE"
            live = await http.get("/health/live")
            assert (live.status_code, live.json()) == (200, {"status": "live"})
        state.reason = None
        assert (await http.get("/health/ready")).status_code == 200


async def test_a_teacher_that_still_loads_has_health_and_numbers(qwen: Path):
    metrics = Metrics()
    app = make_app(None, metrics, State())
    async with asking(app) as http:
        assert (await http.get("/metrics")).status_code == 200
        assert problem_of(await http.get("/v1/teacher"), 503)["code"] == "UNAVAILABLE"
        async with tiny_core(qwen, metrics) as core:
            app.state.core = core
            assert (await http.get("/v1/teacher")).json()["teacher_id"] == "tiny"


async def test_wrong_paths_and_methods_are_problems():
    async with asking(empty_app()) as http:
        problem_of(await http.get("/nothing"), 404)
        refused = await http.post("/health/live")
        problem_of(refused, 405)
        assert refused.headers["allow"] == "GET"
        assert (await http.get("/docs")).status_code == 404, "its scripts come from elsewhere"


async def test_a_fault_leaks_nothing(caplog: pytest.LogCaptureFixture):
    app = empty_app()

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret")

    async with asking(app) as http:
        response = await http.get("/broken")
        assert (await http.get("/health/live")).status_code == 200
    body = problem_of(response, 500)
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    assert body["error_id"]
    assert str(body["error_id"]) in caplog.text
    assert "a secret" in caplog.text, "the log has it"


def test_every_status_has_its_http_status():
    assert set(HTTP_STATUS) == {code.name for code in CODES.values()}


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (LimitExceeded("later", ErrorDetail("credit", "9", "5", retry_after_ms=1200)), 429, "2"),
        (LimitExceeded("never", ErrorDetail("item", "9", "5")), 413, None),
        *((kind("message"), HTTP_STATUS[code.name], None) for kind, code in CODES.items()),
    ],
)
async def test_a_teachers_error_is_a_problem(
    error: TeacherError, status: int, retry_after: str | None
):
    app = empty_app()

    @app.get("/raise")
    async def fail() -> None:
        raise error

    async with asking(app) as http:
        response = await http.get("/raise")
    if type(error) is LimitExceeded and retry_after is None:
        status = 413
    body = problem_of(response, status)
    assert body["detail"] == error.message
    assert body["code"] == CODES[type(error)].name
    assert body.get("limit", "") == error.detail.limit
    assert response.headers.get("retry-after") == retry_after


async def test_bad_parameters_are_named():
    app = empty_app()

    @app.get("/square")
    async def square(number: int) -> int:
        return number**2

    async with asking(app) as http:
        body = problem_of(await http.get("/square?number=four"), 422)
        assert body["field"] == "query.number"
        assert (await http.get("/square?number=4")).json() == 16


async def test_a_taken_port_is_told():
    async with running_gateway(empty_app(), "127.0.0.1", 0) as address:
        host, port = address.rsplit(":", 1)
        assert host == "127.0.0.1"
        with pytest.raises(OSError, match=f"can't bind {address}"):
            async with running_gateway(empty_app(), "127.0.0.1", int(port)):
                pass
    async with running_gateway(empty_app(), "127.0.0.1", int(port)) as again:
        assert again == address, "given back"


async def test_a_name_that_is_none_is_told():
    with pytest.raises(OSError, match="can't bind"):
        async with running_gateway(empty_app(), "no-such-host.invalid", 0):
            pass


async def test_signals_are_left_alone():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with running_gateway(empty_app(), "127.0.0.1", 0):
        during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert during == before


async def test_leaving_waits_for_what_is_under_way_and_no_longer():
    app = empty_app()
    begun = asyncio.Event()

    @app.get("/slow")
    async def slow(seconds: float) -> str:
        begun.set()
        await asyncio.sleep(seconds)
        return "done"

    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        async with running_gateway(app, "127.0.0.1", 0) as address:
            asked = asyncio.create_task(http.get(f"http://{address}/slow?seconds=0.3"))
            await begun.wait()
        assert (await asked).json() == "done"
        begun.clear()
        async with running_gateway(app, "127.0.0.1", 0, grace_s=1) as address:
            asked = asyncio.create_task(http.get(f"http://{address}/slow?seconds=60"))
            await begun.wait()
            left_s = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - left_s < 5
        with contextlib.suppress(httpx.HTTPError):
            assert (await asked).status_code == 500


async def test_an_error_inside_closes_the_port():
    addresses: list[str] = []

    async def fail() -> None:
        async with running_gateway(empty_app(), "127.0.0.1", 0) as address:
            addresses.append(address)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*addresses[0].rsplit(":", 1))
