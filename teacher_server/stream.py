"""One Score call: the prompts it put, the credit it has, the items under way."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from protos.codec import (
    error_to_proto,
    item_from_proto,
    prompt_from_proto,
    scores_to_protos,
    unsupported_prompt_part,
    unsupported_request_part,
)
from protos.errors import (
    Cancelled,
    DuplicateId,
    ErrorDetail,
    InternalFault,
    InvalidItem,
    LimitExceeded,
    PreconditionFailed,
    TeacherError,
    Unavailable,
    Unimplemented,
)
from protos.item import ScoreItem
from protos.v1 import teacher_pb2 as pb
from teacher_server.client import Client
from teacher_server.core import TeacherCore
from teacher_server.engines.engine import PreparedPrompt
from teacher_server.metrics import code_of
from teacher_server.validation import check_image_count, check_item_bytes

log = logging.getLogger(__name__)

MIN_UNREAD = 16_384
"""Answers that may wait for a client to read them; more where its window allows more items."""
RETRY_AFTER_MS = 50
"""Hint for an item that came without credit: about one batch of a busy engine."""


@dataclass(eq=False)
class _HeldPrompt:
    content: bytes
    """Sha256 of the message, to tell a repetition from a clash."""
    ready: asyncio.Task[PreparedPrompt]
    held_bytes: int
    """As it came, and once it is prepared, as it is kept."""
    users: int = 0
    """Items under way that keep it alive, dropped or not."""
    forgotten: bool = False
    released: bool = False


class Stream:
    """Reads everything as it comes, answers as results are ready. Its state ends with it."""

    def __init__(
        self, core: TeacherCore, window_tokens: int, client: Client, name: str = ""
    ) -> None:
        self.client = client
        """Whose turns and quotas it takes; may change while the stream is open."""
        self.name = name
        """In the logs of both sides."""
        self._core = core
        self.opened_by = client
        """Whose the prompts are that are kept."""
        self._limits = core.info.limits
        self._prompts: dict[int, _HeldPrompt] = {}
        self._items: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox: asyncio.Queue[pb.ServerMessage | int | None] = asyncio.Queue()
        self._end: TeacherError | None = None
        self._max_unread = max(MIN_UNREAD, 4 * window_tokens)
        self.over = asyncio.Event()
        """Set once everything was given back: the last answer is written, or given up."""
        self._held_bytes = 0
        self._spent = 0
        self._granted = window_tokens
        self._draining = False
        self._warned_of_processor = False
        self._warned_of_message = False

    async def run(
        self, incoming: AsyncIterator[pb.ClientMessage]
    ) -> AsyncGenerator[pb.ServerMessage]:
        """Answers, until the client half-closes (or the server drains) and what was admitted is answered.

        Raises the TeacherError that `end` was called with.
        """
        self._send(pb.ServerMessage(credit=pb.Credit(granted_tokens=self._granted)))
        reader = asyncio.create_task(self._read(incoming))
        try:
            while (message := await self._outbox.get()) is not None and self._end is None:
                if isinstance(message, int):
                    # Credit comes back only here, behind the answer it was spent on: gRPC takes messages as the
                    # client reads them, so one that does not read gets no more.
                    self._granted += message
                    message = pb.ServerMessage(credit=pb.Credit(granted_tokens=self._granted))
                yield message
            if self._end is not None:
                raise self._end
            if reader.done():
                reader.result()
        finally:
            preparing = [held.ready for held in self._prompts.values()]
            for task in (reader, *self._tasks, *preparing):
                task.cancel()

    def end(self, error: TeacherError) -> None:
        """Admit and answer nothing more: whoever runs the stream gets `error`."""
        self._end = self._end or error
        self._outbox.put_nowait(None)

    def close(self) -> None:
        """Give back what it holds; call it once `run` is over."""
        for prompt_id in list(self._prompts):
            self._forget(prompt_id)
        self.over.set()

    async def drain(self) -> None:
        """Say so, admit nothing more, end once everything admitted is answered."""
        self._draining = True
        notice = pb.Notice(draining=True, message="the teacher is shutting down")
        self._send(pb.ServerMessage(notice=notice))
        await self._finish()

    async def _finish(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._outbox.put_nowait(None)

    async def _read(self, incoming: AsyncIterator[pb.ClientMessage]) -> None:
        try:
            async for message in incoming:
                self._core.metrics.bytes_in(message.ByteSize())
                self._handle(message)
        except DecodeError as error:
            raise InvalidItem(
                "what came is no ClientMessage of vgs.teacher.v1; is the client another program?"
            ) from error
        finally:
            await self._finish()

    def _handle(self, message: pb.ClientMessage) -> None:
        if self._end is not None:
            return
        if self._outbox.qsize() > self._max_unread:  # refusals cost no credit
            self.end(
                LimitExceeded(f"{self._max_unread} answers are unread; read them as they come")
            )
            return
        match message.WhichOneof("message"):
            case "put_prompt":
                self._put_prompt(message.put_prompt)
            case "drop_prompt":
                self._forget(message.drop_prompt.prompt_id)
            case "score":
                self._start_item(message.score)
            case "cancel":
                if (task := self._items.get(message.cancel.request_id)) is not None:
                    task.cancel()
            case _:
                if not self._warned_of_message:
                    self._warned_of_message = True
                    log.warning("unknown_message stream=%s; is the client newer?", self.name)

    def _send(self, message: pb.ServerMessage) -> None:
        self._outbox.put_nowait(message)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ---------------------------------------------------------------------------------- prompts

    def _put_prompt(self, message: pb.PutPrompt) -> None:
        try:
            held = self._hold(message)
        except TeacherError as error:
            self._core.metrics.prompt_answered(code_of(error))
            self._send_prompt_error(message.prompt_id, error)
        else:
            self._start(self._acknowledge(message.prompt_id, held))

    def _hold(self, message: pb.PutPrompt) -> _HeldPrompt:
        """Register the prompt at once, so that what follows in the stream finds it."""
        self._refuse_when_draining()
        size = message.ByteSize()
        check_item_bytes(size, self._core.info)
        check_image_count(len(message.media), self._core.info)
        _refuse_unsupported(unsupported_prompt_part(message))
        content = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
        held = self._prompts.get(message.prompt_id)
        if held is not None:
            if held.content != content:
                raise DuplicateId(
                    f"prompt {message.prompt_id} was put before with other content; choose a new id",
                    ErrorDetail("prompt_id", str(message.prompt_id)),
                )
            return held
        if len(self._prompts) >= self._limits.max_prompts:
            limit = str(self._limits.max_prompts)
            raise LimitExceeded(
                f"the stream holds {limit} prompts, which is the limit; drop some",
                ErrorDetail("prompt_id", str(len(self._prompts) + 1), limit, RETRY_AFTER_MS),
            )
        prompt = prompt_from_proto(message)
        own = self._core.info.processor_fingerprint
        if prompt.processor_fingerprint not in ("", own) and not self._warned_of_processor:
            self._warned_of_processor = True
            log.warning(
                "other_processor stream=%s client=%.64r own=%s",
                *(self.name, prompt.processor_fingerprint, own),
            )
        held = _HeldPrompt(content, asyncio.create_task(self._core.prepare(prompt)), 0)
        self._prompts[message.prompt_id] = held
        try:
            self._account(held, size)
        except LimitExceeded:
            held.ready.cancel()
            self._forget(message.prompt_id)
            raise
        return held

    async def _acknowledge(self, prompt_id: int, held: _HeldPrompt) -> None:
        try:
            prepared = await asyncio.shield(held.ready)
            if self._prompts.get(prompt_id) is held:
                self._account(held, prepared.memory_bytes)
        except Exception as error:
            if self._prompts.get(prompt_id) is held:
                self._forget(prompt_id)
            self._send_prompt_error(prompt_id, _as_teacher_error(error))
            return
        ack = pb.PromptAck(
            prompt_id=prompt_id, mm_length=prepared.mm_length, text_length=prepared.text_length
        )
        self._send(pb.ServerMessage(prompt_ack=ack))

    def _account(self, held: _HeldPrompt, size: int) -> None:
        total = self._held_bytes - held.held_bytes + size
        limit = self._limits.max_stream_bytes
        if total > limit:
            raise LimitExceeded(
                f"the stream's prompts would take {total} bytes, the limit is {limit}; drop some",
                ErrorDetail(
                    "prompt_id", str(total), str(limit), RETRY_AFTER_MS if size <= limit else 0
                ),
            )
        self._core.ledger.keep(self.opened_by, size - held.held_bytes)
        self._held_bytes, held.held_bytes = total, size

    def _forget(self, prompt_id: int) -> None:
        held = self._prompts.pop(prompt_id, None)
        if held is None:
            return
        held.forgotten = True
        if held.ready.done():
            self._release(held)
        else:  # its bytes are held until the work on it ends
            held.ready.add_done_callback(lambda _: self._release(held))

    def _release(self, held: _HeldPrompt) -> None:
        """Give its bytes back once nobody can need it."""
        if held.released or held.users or not (held.forgotten and held.ready.done()):
            return
        held.released = True
        self._held_bytes -= held.held_bytes
        self._core.ledger.keep(self.opened_by, -held.held_bytes)

    def _send_prompt_error(self, prompt_id: int, error: TeacherError) -> None:
        self._send(pb.ServerMessage(error=error_to_proto(error, prompt_id=prompt_id)))

    # ------------------------------------------------------------------------------------ items

    def _start_item(self, message: pb.ScoreRequest) -> None:
        cost = _tokens(message)
        self._spent += cost
        try:
            self._refuse_when_draining()
            self._refuse_overspending(cost)
            if message.request_id in self._items:
                raise DuplicateId(
                    f"request {message.request_id} is still under way; choose a new id",
                    ErrorDetail("request_id", str(message.request_id)),
                )
        except TeacherError as error:
            self._core.metrics.item_refused(self.client.key, error)
            self._send_item_error(message.request_id, error)
            self._grant(cost)
        else:
            # Looked up now: a DropPrompt that follows does not undo what was asked before it.
            held = self._prompts.get(message.prompt_id)
            if held is not None:
                held.users += 1
            task = self._start(self._answer_item(message, held))
            self._items[message.request_id] = task
            task.add_done_callback(
                lambda ended: self._settle_item(message.request_id, cost, held, ended)
            )

    def _settle_item(
        self, request_id: int, cost: int, held: _HeldPrompt | None, ended: asyncio.Task[None]
    ) -> None:
        """Whatever became of an item, even one cancelled before it began: one answer, and its credit."""
        del self._items[request_id]
        if held is not None:
            held.users -= 1
            self._release(held)
        if ended.cancelled():
            self._send_item_error(request_id, Cancelled("the client took the item back"))
        self._grant(cost)

    async def _answer_item(self, message: pb.ScoreRequest, held: _HeldPrompt | None) -> None:
        try:
            for chunk in await self._score(message, held):
                self._send(pb.ServerMessage(scores=chunk))
        except Exception as error:
            error = _as_teacher_error(error)
            log.debug(
                "item_refused stream=%s request=%d code=%s %s",
                *(self.name, message.request_id, code_of(error), error.message),
            )
            self._send_item_error(message.request_id, error)

    async def _score(self, message: pb.ScoreRequest, held: _HeldPrompt | None) -> list[pb.Scores]:
        try:
            item = self._item(message)
            if held is None:
                raise PreconditionFailed(
                    f"prompt {message.prompt_id} is not held by this stream; put it first",
                    ErrorDetail("prompt_id", str(message.prompt_id)),
                )
        except Exception as error:
            self._core.metrics.item_refused(self.client.key, _as_teacher_error(error))
            raise
        scores = await self._core.score(held.ready, item, self.client)
        return list(
            scores_to_protos(scores, message.request_id, item.dtype, self._limits.max_chunk_rows)
        )

    def _item(self, message: pb.ScoreRequest) -> ScoreItem:
        check_item_bytes(message.ByteSize(), self._core.info)
        _refuse_unsupported(unsupported_request_part(message))
        return item_from_proto(message)

    def _refuse_overspending(self, cost: int) -> None:
        if self._spent > self._granted:
            left = max(0, self._granted - self._spent + cost)
            raise LimitExceeded(
                f"the response has {cost} tokens, the stream's credit is {left}; wait for more credit",
                ErrorDetail("credit", str(cost), str(left), retry_after_ms=RETRY_AFTER_MS),
            )

    def _refuse_when_draining(self) -> None:
        if self._draining:
            raise Unavailable("the teacher is shutting down; ask another replica")

    def _grant(self, cost: int) -> None:
        self._outbox.put_nowait(cost)

    def _send_item_error(self, request_id: int, error: TeacherError) -> None:
        self._send(pb.ServerMessage(error=error_to_proto(error, request_id=request_id)))


def _tokens(message: pb.ScoreRequest) -> int:
    """What a request spends: its response tokens, or for a text their upper bound, its bytes."""
    if message.HasField("response_text"):
        return max(1, len(message.response_text.encode()))
    return max(1, len(message.response_ids.data) // 4)


def _refuse_unsupported(word: str | None) -> None:
    if word is not None:
        raise Unimplemented(
            f"this teacher does not do {word!r}; Describe names what it does",
            ErrorDetail("capabilities", word),
        )


def _as_teacher_error(error: Exception) -> TeacherError:
    if isinstance(error, TeacherError):
        return error
    error_id = uuid.uuid4().hex[:12]
    log.error("item_failed error_id=%s", error_id, exc_info=error)
    return InternalFault(
        f"the teacher failed on this item; error id {error_id} stands in its log",
        ErrorDetail(error_id=error_id),
    )
