"""Scoring over HTTP: the bits of gRPC, the same limits, identities and errors."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from transformers import AutoProcessor

from protos.client import TeacherClient
from protos.item import ScoreItem
from protos.prompt import ChatPrompt
from protos.scores import PER_ENTRY, PER_ROW
from protos.teacher_info import Limits
from teacher_server.chat_format import ChatFormat
from teacher_server.client_file import ClientFile, new_token
from teacher_server.config import ServeConfig
from teacher_server.core import TeacherCore
from teacher_server.doorkeeper import Doorkeeper
from teacher_server.gateway.app import make_app
from teacher_server.gateway.examples import read_examples
from teacher_server.gateway.http_server import running_gateway
from teacher_server.metrics import Metrics
from teacher_server.serve import running_server, start_engine
from tests.conftest import TOY
from tests.pictures import noise
from tests.stand_in_engine import StandInEngine
from tests.tiny_core import Scrape

PICTURE = noise(1, (64, 40))
ANSWER = "a temple under the sky"


def data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def question(*images: bytes, text: str = "what is it?") -> dict[str, Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": data_uri(i)}} for i in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def body(**changes: Any) -> dict[str, Any]:
    return {"messages": [question(PICTURE)], "response": ANSWER} | changes


@contextlib.asynccontextmanager
async def both_faces(model: Path, **server: Any) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """An HTTP client and the gRPC address of one real, deterministic server."""
    config = ServeConfig.model_validate(
        {
            "model": str(model),
            "engine": {"device": "cpu", "threads": 1, "deterministic": True},
            "server": {"port": 0, "http_port": 0, "grace_s": 5} | server,
        }
    )
    found: list[str] = []

    @contextlib.asynccontextmanager
    async def noted(*arguments: Any) -> AsyncIterator[str]:
        async with running_gateway(*arguments) as address:
            found.append(address)
            yield address

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("teacher_server.serve.running_gateway", noted)
        async with (
            running_server(config, await start_engine(config)) as grpc_address,
            httpx.AsyncClient(base_url=f"http://{found[0]}", trust_env=False, timeout=60) as client,
        ):
            yield client, grpc_address


def arrays_of(packed: bytes) -> dict[str, np.ndarray]:
    body: Any = msgpack.unpackb(packed)
    return {
        name: np.frombuffer(data, dtype).reshape(shape)
        for name, (dtype, shape, data) in body["scores"].items()
    }


@pytest.mark.parametrize("text_context", ["drop", "grey"])
async def test_http_and_grpc_give_the_same_bits(qwen: Path, text_context: Any):
    async with both_faces(qwen) as (http, address):
        async with TeacherClient(address) as teacher:
            messages = [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}],
                }
            ]
            put = await teacher.put_prompt(
                ChatPrompt(json.dumps(messages), (PICTURE,), text_context)
            )
            expected = await teacher.score(
                put, ScoreItem(response_text=ANSWER, k=4, token_texts=True)
            )
        wanted = body(mode="topk", k=4, text_context=text_context)
        packed = await http.post(
            "/v1/score", json=wanted, headers={"Accept": "application/msgpack"}
        )
        plain = await http.post("/v1/score", json=wanted)
    assert packed.headers["content-type"] == "application/msgpack"
    arrays = arrays_of(packed.content)
    for name in ("row_splits", *PER_ENTRY, *PER_ROW):
        assert arrays[name].tobytes() == getattr(expected, name).tobytes(), name
    answer = plain.json()
    assert (answer["mm_length"], answer["text_length"]) == (put.mm_length, put.text_length)
    tokens = answer["tokens"]
    assert "".join(token["text"] for token in tokens) == ANSWER
    assert [token["id"] for token in tokens] == expected.response_ids.tolist()
    for key, name in (
        ("vds", "vds"),
        ("mm_logprob", "sampled_mm_logprobs"),
        ("text_logprob", "sampled_text_logprobs"),
    ):
        column = np.array([token[key] for token in tokens], dtype=np.float32)
        assert column.tobytes() == getattr(expected, name).tobytes()
    for row, token in enumerate(tokens):
        entries = slice(expected.row_splits[row], expected.row_splits[row + 1])
        of_row = {
            i: (mm, text)
            for i, mm, text in zip(
                expected.support_ids[entries].tolist(),
                expected.mm_logprobs[entries].tolist(),
                expected.text_logprobs[entries].tolist(),
                strict=True,
            )
        }
        assert {c["id"]: (c["mm_logprob"], c["text_logprob"]) for c in token["top"]} == of_row
        likely = [c["mm_logprob"] for c in token["top"]]
        assert likely == sorted(likely, reverse=True)
    gain = expected.sampled_mm_logprobs.sum(dtype=np.float64) - expected.sampled_text_logprobs.sum(
        dtype=np.float64
    )
    assert answer["summary"]["sequence_gain"] == gain
    assert answer["summary"]["vds_max"] == float(expected.vds.max())


async def test_parts_ids_and_dialogues(qwen: Path):
    async with both_faces(qwen) as (http, _):

        async def score(**changes: Any) -> Any:
            response = await http.post("/v1/score", json=body(**changes))
            assert response.status_code == 200, response.text
            return response.json()

        whole = await score()
        assert "top" not in whole["tokens"][0] or whole["tokens"][0]["top"] is None
        by_ids = await score(response=None, response_ids=[t["id"] for t in whole["tokens"]])
        assert by_ids["tokens"] == whole["tokens"]
        sampled = await score(mode="sampled_only")
        assert [t["vds"] for t in sampled["tokens"]] == [None] * len(whole["tokens"])
        assert sampled["summary"]["vds_mean"] is None
        assert sampled["summary"]["sequence_gain"] == whole["summary"]["sequence_gain"]
        turns = [
            question(PICTURE),
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": "sure?"},
            {"role": "assistant", "content": "quite"},
        ]
        dialogue = await score(messages=turns, response=None, id="seven")
        assert dialogue["id"] == "seven"
        assert "".join(t["text"] for t in dialogue["tokens"]) == ANSWER + "quite"
        first = [t["vds"] for t in dialogue["tokens"][: len(whole["tokens"])]]
        np.testing.assert_allclose(first, [t["vds"] for t in whole["tokens"]], atol=1e-5)


BAD = {
    "no-json": (b"what is it?", 422, "Invalid JSON"),
    "no-messages": (b"{}", 422, "messages: Field required"),
    "empty-messages": (body(messages=[]), 422, "messages"),
    "unknown-field": (body(temperature=1), 422, "temperature"),
    "remote-image": (
        body(messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}]),
        422, "not fetched",
    ),
    "image-that-is-a-path": (
        body(messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]),
        422, "not fetched",
    ),
    "image-without-base64": (
        body(messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png,abc"}}]}]),
        422, "no base64 data URI",
    ),
    "image-of-bad-base64": (
        body(messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,a?b"}}]}]),
        422, "no valid base64",
    ),
    "image-that-is-none": (body(messages=[question(b"hello")]), 422, "no image of an allowed format"),
    "seventeen-images": (body(messages=[question(*[PICTURE] * 17)]), 422, "17 images"),
    "role-of-a-stranger": (body(messages=[{"role": "narrator", "content": "x"}]), 422, "messages[0].role"),
    "both-responses": (body(response_ids=[40]), 422, "both given"),
    "nothing-to-score": (body(response=None), 422, "nothing to score"),
    "answer-first": (
        body(messages=[{"role": "assistant", "content": "hm"}], response=None), 422, "first message is the assistant's",
    ),
    "empty-response": (body(response=""), 422, "response_text is empty"),
    "empty-ids": (body(response=None, response_ids=[]), 422, "response_ids is empty"),
    "id-past-the-model": (body(response=None, response_ids=[2_000_000]), 422, "response_ids[0] is 2000000"),
    "id-past-32-bits": (body(response=None, response_ids=[2**31]), 422, "response_ids[0]"),
    "half-a-character": (b'{"messages": [{"role": "user", "content": "\\ud800"}], "response": "a"}', 422, ""),
    "k-without-candidates": (body(k=5), 422, "mode vds_only has no candidates"),
    "k-too-large": (body(mode="topk", k=100_000), 422, "k is 100000"),
    "deadline-of-nothing": (body(deadline_s=0), 422, "deadline_s"),
    "prompt-ends-with-the-answer": (
        body(messages=[question(PICTURE), {"role": "assistant", "content": "so"}]), 422, "send it as the response",
    ),
    "too-long": (body(response="a x" * 30_000), 422, "never truncated"),
}  # fmt: skip


async def test_bad_input_costs_nothing_but_itself(qwen: Path):
    async with both_faces(qwen) as (http, _):
        good = (await http.post("/v1/score", json=body())).json()["tokens"]
        for name, (sent, status, says) in BAD.items():
            content = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
            response = await http.post(
                "/v1/score", content=content, headers={"Content-Type": "application/json"}
            )
            assert response.status_code == status, (name, response.text)
            assert response.headers["content-type"] == "application/problem+json", name
            found = response.json()
            assert says in found["detail"], (name, found)
            assert len(response.content) < 1000, name
        assert (await http.post("/v1/score", json=body())).json()["tokens"] == good


async def test_another_media_type_is_refused(qwen: Path):
    async with both_faces(qwen) as (http, _):
        for given in ("text/plain", "application/x-www-form-urlencoded", ""):
            response = await http.post(
                "/v1/score", content=json.dumps(body()), headers={"Content-Type": given}
            )
            assert response.status_code == 422
            assert response.json()["limit"] == "application/json"


async def test_a_batch_answers_line_by_line(qwen: Path):
    lines = [
        json.dumps(body(id="a")),
        "",
        "no json",
        json.dumps(body(id="b", response="blue")),
        json.dumps(body(id="c", messages=[question(b"junk")])),
    ]
    async with both_faces(qwen) as (http, _):
        alone = (await http.post("/v1/score", json=body(id="a"))).json()
        response = await http.post(
            "/v1/score/batch",
            content="\n".join(lines),
            headers={"Content-Type": "application/x-ndjson"},
        )
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/x-ndjson")
    got = {line["index"]: line for line in map(json.loads, response.text.splitlines())}
    assert sorted(got) == [0, 2, 3, 4]
    assert got[0]["answer"]["id"] == "a"
    assert [t["vds"] for t in got[0]["answer"]["tokens"]] == [t["vds"] for t in alone["tokens"]]
    assert "".join(t["text"] for t in got[3]["answer"]["tokens"]) == "blue"
    assert got[2]["problem"]["code"] == got[4]["problem"]["code"] == "INVALID_ARGUMENT"


@contextlib.asynccontextmanager
async def stand_in(
    limits: Limits | None = None, held: bool = False, **options: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, TeacherCore, StandInEngine]]:
    """The gateway over an engine that can be held, with the toy's tokenizer."""
    engine = StandInEngine(limits or Limits(), held)
    engine.chat = ChatFormat(AutoProcessor.from_pretrained(TOY / "teacher"))
    core = TeacherCore(engine, Metrics())
    app = make_app(core, core.metrics, options.pop("not_ready", lambda: None), **options)
    try:
        async with (
            running_gateway(app, "127.0.0.1", 0) as address,
            httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, timeout=30) as client,
        ):
            yield client, core, engine
    finally:
        await core.close()


PLAIN = {"messages": [{"role": "user", "content": "the sum is"}], "response": "17"}


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_caller_that_hangs_up_takes_its_item_back():
    async with stand_in(held=True) as (http, core, engine):
        asking = asyncio.create_task(http.post("/v1/score", json=PLAIN))
        await until(lambda: engine.waiting)
        assert core.ledger.tokens > 0
        asking.cancel()
        await until(lambda: not engine.waiting)
        await until(lambda: core.ledger.tokens == core.ledger.kept_bytes == 0)


async def test_a_batch_whose_caller_hangs_up_is_taken_back():
    lines = "\n".join([json.dumps(PLAIN)] * 40)
    headers = {"Content-Type": "application/x-ndjson"}
    async with stand_in(held=True) as (http, core, engine):
        asking = asyncio.create_task(http.post("/v1/score/batch", content=lines, headers=headers))
        await until(lambda: len(engine.waiting) == 16)
        await asyncio.sleep(0.2)
        assert len(engine.waiting) == 16, "so many at a time"
        asking.cancel()
        await until(lambda: not engine.waiting)
        await until(lambda: core.ledger.tokens == core.ledger.kept_bytes == 0)


async def test_quotas_are_those_of_the_client(tmp_path: Path):
    token, digest = new_token()
    path = tmp_path / "clients.toml"
    path.write_text(f'[clients.lab]\ntoken_sha256 = "{digest}"\nmax_tokens = 1\n')
    doorkeeper = Doorkeeper(ClientFile(path))
    async with stand_in(held=True, doorkeeper=doorkeeper) as (http, core, engine):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}):
            response = await http.post("/v1/score", json=PLAIN, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert (await http.get("/v1/teacher", headers=headers)).status_code == 401
        http.headers["Authorization"] = f"Bearer {token}"
        assert (await http.get("/v1/teacher")).json()["limits"]["max_client_tokens"] == 1
        first = asyncio.create_task(
            http.post("/v1/score", json=PLAIN | {"response_ids": [40], "response": None})
        )
        await until(lambda: engine.waiting)
        second = await http.post("/v1/score", json=PLAIN | {"response_ids": [40], "response": None})
        assert second.status_code == 429
        assert int(second.headers["retry-after"]) >= 1
        assert second.json()["retry_after_ms"] > 0
        engine.let_go()
        assert (await first).status_code == 200
        scrape = Scrape.of(core.metrics)
        assert scrape("teacher_items_total", client="lab", code="OK") == 1
        assert scrape("teacher_items_total", client="lab", code="RESOURCE_EXHAUSTED") == 1


async def test_a_body_past_the_limit_is_not_read():
    limits = Limits(max_item_bytes=10_000, max_message_bytes=20_000)
    async with stand_in(limits) as (http, core, _):
        headers = {"Content-Type": "application/json"}
        large = await http.post("/v1/score", content=b" " * 10_001, headers=headers)
        assert large.status_code == 413
        assert large.json()["limit"] == "10000"

        async def unending() -> AsyncIterator[bytes]:
            while True:
                yield b" " * 1000

        # It may be told so before it has sent all, and must then stop.
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):
            response = await http.post("/v1/score", content=unending(), headers=headers)
            assert response.status_code == 413
        assert core.ledger.kept_bytes == 0
        assert (await http.post("/v1/score", json=PLAIN)).status_code == 200


async def test_a_batch_of_newlines_costs_nothing():
    headers = {"Content-Type": "application/x-ndjson"}
    async with stand_in() as (http, core, _):
        few = await http.post("/v1/score/batch", content=b"\n" * 10_000, headers=headers)
        assert (few.status_code, few.content) == (200, b"")
        many = await http.post("/v1/score/batch", content=b"\n" * 10_001, headers=headers)
        assert many.status_code == 422
        assert "10001 lines" in many.json()["detail"]
        assert core.ledger.kept_bytes == 0


async def test_json_holds_no_millions_of_candidates(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("teacher_server.gateway.score_routes.MOST_CANDIDATES", 2)
    wanted = PLAIN | {"response": "17 17 17", "mode": "topk"}
    async with stand_in() as (http, _, _):
        refused = await http.post("/v1/score", json=wanted)
        assert refused.status_code == 413
        assert "3 candidates" in refused.json()["detail"]
        headers = {"Accept": "application/msgpack"}
        assert (await http.post("/v1/score", json=wanted, headers=headers)).status_code == 200


async def test_a_deadline_covers_the_prompt_too(monkeypatch: pytest.MonkeyPatch):
    async with stand_in() as (http, core, engine):
        prepare = engine.prepare

        async def slowly(*arguments: Any) -> Any:
            await asyncio.sleep(5)
            return await prepare(*arguments)

        monkeypatch.setattr(engine, "prepare", slowly)
        response = await http.post("/v1/score", json=PLAIN | {"deadline_s": 0.2})
        assert response.status_code == 504
        assert core.ledger.kept_bytes == 0


async def test_a_caller_that_leaves_in_the_middle_of_its_body_is_no_fault(
    caplog: pytest.LogCaptureFixture,
):
    async with stand_in() as (http, core, _):
        host, port = http.base_url.host, http.base_url.port
        reader, writer = await asyncio.open_connection(host, port)
        head = "POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
        writer.write(f"{head}\r\n".encode() + b"{" * 50)
        await writer.drain()
        await until(lambda: core.ledger.kept_bytes == 50)
        writer.close()
        await until(lambda: core.ledger.kept_bytes == 0)
        assert await reader.read() == b""
        assert (await http.post("/v1/score", json=PLAIN)).status_code == 200
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


async def test_nothing_new_is_taken_while_it_shuts_down():
    async with stand_in(not_ready=lambda: "draining") as (http, _, _):
        response = await http.post("/v1/score", json=PLAIN)
        assert response.status_code == 503
        assert (await http.get("/v1/teacher")).status_code == 200


async def test_a_teacher_without_a_template_says_so():
    async with stand_in() as (http, _, engine):
        engine.chat = None
        response = await http.post("/v1/score", json=PLAIN)
        assert response.status_code == 501
        assert response.json()["code"] == "UNIMPLEMENTED"


async def test_metrics_are_for_clients_where_the_port_is_open(tmp_path: Path):
    token, digest = new_token()
    path = tmp_path / "clients.toml"
    path.write_text(f'[clients.prometheus]\ntoken_sha256 = "{digest}"\n')
    doorkeeper = Doorkeeper(ClientFile(path))
    async with stand_in(doorkeeper=doorkeeper, open_metrics=False) as (http, _, _):
        assert (await http.get("/metrics")).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert (await http.get("/metrics", headers=headers)).status_code == 200
        assert (await http.get("/health/ready")).status_code == 200


async def test_the_page_and_its_examples(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(PICTURE)
    row = {"image": "a.png", "question": "what is it?", "answer": "noise"}
    (tmp_path / "examples.jsonl").write_text(json.dumps(row) + "\n")
    async with stand_in(examples=read_examples(tmp_path / "examples.jsonl")) as (http, _, _):
        page = await http.get("/")
        script = await http.get("/explorer/explorer.js")
        shown = (await http.get("/v1/examples")).json()["examples"]
        assert (await http.get("/explorer/nothing.js")).status_code == 404
        assert (await http.get("/explorer/../config.py")).status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert script.headers["content-type"].startswith("text/javascript")
    for response in (page, script):
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert "unsafe" not in response.headers["content-security-policy"]
    assert shown == [
        {
            "name": "what is it?",
            "image": data_uri(PICTURE),
            "question": "what is it?",
            "answer": "noise",
        }
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1"),
        ('{"image": "a.png", "question": "what?"}', "write image, question and answer"),
        ('{"image": "b.png", "question": "what?", "answer": "so"}', "b.png"),
    ],
)
def test_examples_that_can_not_be_read(tmp_path: Path, line: str, says: str):
    path = tmp_path / "examples.jsonl"
    path.write_text(line)
    with pytest.raises((ValueError, OSError), match=says):
        read_examples(path)
