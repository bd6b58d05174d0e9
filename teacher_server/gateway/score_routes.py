"""POST /v1/score: one answer at a time, or many as lines of JSON."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from protos.errors import Cancelled, ErrorDetail, InvalidItem, LimitExceeded, TeacherError
from protos.item import ScoreItem
from protos.prompt import ChatPrompt
from teacher_server.fault import as_teacher_error
from teacher_server.gateway.body import read_body
from teacher_server.gateway.caller import Call, LetIn
from teacher_server.gateway.one_shot import Holding, score_once, texts_of
from teacher_server.gateway.problem import Problem, problem_of
from teacher_server.gateway.score_answer import ScoreAnswer, packed_answer, score_answer
from teacher_server.gateway.score_request import parse_request

T = TypeVar("T")
JSON, LINES, PACKED = "application/json", "application/x-ndjson", "application/msgpack"
MOST_LINES = 10_000
"""Of one batch."""
MOST_CANDIDATES = 200_000
"""Of one answer as JSON, which takes a hundred times the memory that the packed one does."""
LARGE_BYTES = 2**17
LINES_AT_A_TIME = 16
"""Of one batch, in the engine or on their way there."""
_ONE = {
    "required": True,
    "content": {JSON: {"schema": {"$ref": "#/components/schemas/ScoreRequest"}}},
}
_MANY = {
    "required": True,
    "content": {
        LINES: {
            "schema": {"type": "string", "description": "A ScoreRequest in each line."},
            "example": '{"messages": [{"role": "user", "content": "2 + 2?"}], "response": "4"}\n',
        }
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": text,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }
    for status, text in {
        401: "No token, or one that is not known.",
        403: "A certificate that is no client's.",
        409: "The prompt can't be gone on from.",
        413: "More than a request may have.",
        422: "The request is wrong; `field`, `value` and `limit` say where.",
        429: "A quota is full; `Retry-After` says when to ask again.",
        499: "The caller left.",
        500: "The teacher's fault; `error_id` stands in its log.",
        501: "This teacher can't do that.",
        503: "Loading, or shutting down.",
        504: "`deadline_s` passed, or the body took too long.",
    }.items()
}


class BatchLine(BaseModel):
    """A line of the answer to a batch, in order of completion."""

    index: int
    """Of the line that it answers, from 0."""
    answer: ScoreAnswer | None = None
    problem: Problem | None = None
    """Why there is no answer; the other lines are not touched by it."""


def score_router() -> APIRouter:
    """The routes that score."""
    router = APIRouter(prefix="/v1", responses=PROBLEMS)

    @router.post(
        "/score",
        response_model=ScoreAnswer,
        openapi_extra={"requestBody": _ONE},
        responses={200: {"content": {PACKED: {"schema": {"type": "string", "format": "binary"}}}}},
    )
    async def score(request: Request, call: LetIn) -> Response:
        """Which tokens of an answer depend on the picture: JSON, or packed arrays for `Accept: application/msgpack`."""
        with Holding(call.core, call.client) as holding:
            body = await read_body(request, JSON, call.core.info.limits.max_item_bytes, holding)
            asked = await _off_the_loop(len(body), lambda: _parse(call, body))
        packed = PACKED in request.headers.get("accept", "")
        return await _unless_gone(request, _answer(call, asked, packed))

    @router.post(
        "/score/batch",
        response_class=StreamingResponse,
        openapi_extra={"requestBody": _MANY},
        responses={
            200: {"content": {LINES: {"schema": {"$ref": "#/components/schemas/BatchLine"}}}}
        },
    )
    async def batch(request: Request, call: LetIn) -> Response:
        """Many at once, one in each line; answers come as they are ready, each with the index of its line."""
        holding = Holding(call.core, call.client)
        try:
            limit = call.core.info.limits.max_message_bytes
            body = await read_body(request, LINES, limit, holding)
            _check_lines(body)
        except BaseException:
            holding.set(0)
            raise
        return StreamingResponse(_answers(call, body, holding), media_type=LINES)

    return router


class _Asked(NamedTuple):
    id: str | None
    prompt: ChatPrompt
    item: ScoreItem


def _parse(call: Call, body: bytearray) -> _Asked:
    try:
        wanted = parse_request(body)
        return _Asked(wanted.id, wanted.prompt(), wanted.item())
    except TeacherError as error:
        call.core.metrics.item_refused(call.client.key, error)
        raise


async def _answer(call: Call, asked: _Asked, packed: bool) -> Response:
    if not packed:
        answer = await _scored(call, asked)
        body = await _off_the_loop(100 * len(answer.tokens), answer.model_dump_json)
        return Response(body, media_type=JSON)
    prepared, scores = await score_once(call.core, call.client, asked.prompt, asked.item)
    return Response(packed_answer(asked.id, prepared, scores), media_type=PACKED)


async def _scored(call: Call, asked: _Asked) -> ScoreAnswer:
    prepared, scores = await score_once(call.core, call.client, asked.prompt, asked.item)
    entries = len(scores.support_ids)
    if entries > MOST_CANDIDATES:
        raise LimitExceeded(
            f"the answer has {entries} candidates, the limit of JSON is {MOST_CANDIDATES}; ask for "
            f"{PACKED} or a smaller k",
            ErrorDetail("k", str(entries), str(MOST_CANDIDATES)),
        )
    texts = None
    if asked.item.mode == "topk":
        texts = await texts_of(call.core, scores.support_ids.tolist())
    return await _off_the_loop(
        100 * entries, lambda: score_answer(asked.id, prepared, scores, texts)
    )


async def _off_the_loop(size: int, work: Callable[[], T]) -> T:
    """What takes milliseconds is done in a thread: all streams share the loop."""
    return await asyncio.to_thread(work) if size > LARGE_BYTES else work()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Its result; a caller that hangs up takes it back."""
    task = asyncio.create_task(work)
    gone = asyncio.ensure_future(request.receive())  # the body was read: only the end can come
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("the caller hung up")
        return await task
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.wait({task, gone})


async def _answers(call: Call, body: bytearray, holding: Holding) -> AsyncIterator[bytes]:
    """A BatchLine for each line that is not blank."""
    running: set[asyncio.Task[BatchLine]] = set()
    lines = _lines(body)
    try:
        while True:
            for i, line in itertools.islice(lines, LINES_AT_A_TIME - len(running)):
                running.add(asyncio.create_task(_line(call, i, line)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield _dump(task.result())
    finally:
        for task in running:
            task.cancel()
        holding.set(0)


async def _line(call: Call, index: int, line: bytearray) -> BatchLine:
    try:
        asked = await _off_the_loop(len(line), lambda: _parse(call, line))
        return BatchLine(index=index, answer=await _scored(call, asked))
    except Exception as error:
        return BatchLine(index=index, problem=problem_of(as_teacher_error(error)))


def _lines(body: bytearray) -> Iterator[tuple[int, bytearray]]:
    """Those that are not blank, one at a time, with their numbers."""
    start = 0
    for i in itertools.count():
        end = body.find(b"\n", start)
        line = body[start:] if end < 0 else body[start:end]
        if line.strip():
            yield i, line
        if end < 0:
            return
        start = end + 1


def _check_lines(body: bytearray) -> None:
    lines = body.count(b"\n")
    if lines > MOST_LINES:
        raise InvalidItem(
            f"the batch has {lines} lines, the limit is {MOST_LINES}; send the rest in another",
            ErrorDetail("body", str(lines), str(MOST_LINES)),
        )


def _dump(line: BatchLine) -> bytes:
    return line.model_dump_json(exclude_none=True).encode() + b"\n"
