"""One Score call: the prompts it put, the credit it has, the items under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any

from google.protobuf.message import DecodeError

from protos.error_codec import error_to_proto
from protos.errors import (
    Cancelled,
    DuplicateId,
    ErrorDetail,
    InvalidItem,
    LimitExceeded,
    PreconditionFailed,
    TeacherError,
    Unavailable,
)
from protos.item import ScoreItem
from protos.request_codec import item_from_proto, unsupported_request_part
from protos.scores_codec import scores_to_protos
from protos.v1 import teacher_pb2 as pb
from teacher_server.client import Client
from teacher_server.core import TeacherCore
from teacher_server.fault import as_teacher_error
from teacher_server.metrics import code_of
from teacher_server.prompt_store import HeldPrompt, PromptStore
from teacher_server.validation import check_item_bytes, refuse_unsupported

log = logging.getLogger(__name__)

MIN_UNREAD = 16_384
"""Answers that may wait for a client to read them; more where its window allows more items."""
RETRY_AFTER_MS = 50
"""Hint for an item that came without credit: about one batch of a busy engine."""


class Stream:
    """Reads everything as it comes, answers as results are ready. Its state ends with it."""

    def __init__(
        self, core: TeacherCore, window_tokens: int, client: Client, name: str = ""
    ) -> None:
        self.client = client
        """Whose turns and quotas it takes; may change while the stream is open."""
        self.name = name
        """In the logs of both sides."""
        self.opened_by = client
        """Whose the prompts are that are kept."""
        self._core = core
        self._prompts = PromptStore(core, client, name)
        self._items: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._outbox: asyncio.Queue[pb.ServerMessage | int | None] = asyncio.Queue()
        self._end: TeacherError | None = None
        self._max_unread = max(MIN_UNREAD, 4 * window_tokens)
        self.over = asyncio.Event()
        """Set once everything was given back: the last answer is written, or given up."""
        self._spent = 0
        self._granted = window_tokens
        self._draining = False
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
            for task in (reader, *self._tasks):
                task.cancel()
            self._prompts.cancel()

    def end(self, error: TeacherError) -> None:
        """Admit and answer nothing more: whoever runs the stream gets `error`."""
        self._end = self._end or error
        self._outbox.put_nowait(None)

    def close(self) -> None:
        """Give back what it holds; call it once `run` is over."""
        self._prompts.close()
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
                self._prompts.forget(message.drop_prompt.prompt_id)
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
            self._refuse_when_draining()
            held = self._prompts.hold(message)
        except TeacherError as error:
            self._core.metrics.prompt_answered(code_of(error))
            self._send_prompt_error(message.prompt_id, error)
        else:
            self._start(self._acknowledge(message.prompt_id, held))

    async def _acknowledge(self, prompt_id: int, held: HeldPrompt) -> None:
        try:
            prepared = await self._prompts.prepared(prompt_id, held)
        except Exception as error:
            self._send_prompt_error(prompt_id, as_teacher_error(error))
            return
        ack = pb.PromptAck(
            prompt_id=prompt_id, mm_length=prepared.mm_length, text_length=prepared.text_length
        )
        self._send(pb.ServerMessage(prompt_ack=ack))

    def _send_prompt_error(self, prompt_id: int, error: TeacherError) -> None:
        self._send(pb.ServerMessage(error=error_to_proto(error, prompt_id=prompt_id)))

    # ------------------------------------------------------------------------------------ items

    def _start_item(self, message: pb.ScoreRequest) -> None:
        cost = _cost(message, self._core.info.limits.max_response_tokens)
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
                self._prompts.use(held)
            task = self._start(self._answer_item(message, held))
            self._items[message.request_id] = task
            task.add_done_callback(
                lambda ended: self._settle_item(message.request_id, cost, held, ended)
            )

    def _settle_item(
        self, request_id: int, cost: int, held: HeldPrompt | None, ended: asyncio.Task[None]
    ) -> None:
        """Whatever became of an item, even one cancelled before it began: one answer, and its credit."""
        del self._items[request_id]
        if held is not None:
            self._prompts.leave(held)
        if ended.cancelled():
            self._send_item_error(request_id, Cancelled("the client took the item back"))
        self._grant(cost)

    async def _answer_item(self, message: pb.ScoreRequest, held: HeldPrompt | None) -> None:
        try:
            for chunk in await self._score(message, held):
                self._send(pb.ServerMessage(scores=chunk))
        except Exception as error:
            error = as_teacher_error(error)
            log.debug(
                "item_refused stream=%s request=%d code=%s %s",
                *(self.name, message.request_id, code_of(error), error.message),
            )
            self._send_item_error(message.request_id, error)

    async def _score(self, message: pb.ScoreRequest, held: HeldPrompt | None) -> list[pb.Scores]:
        try:
            item = self._item(message)
            if held is None:
                raise PreconditionFailed(
                    f"prompt {message.prompt_id} is not held by this stream; put it first",
                    ErrorDetail("prompt_id", str(message.prompt_id)),
                )
        except Exception as error:
            self._core.metrics.item_refused(self.client.key, as_teacher_error(error))
            raise
        scores = await self._core.score(held.ready, item, self.client)
        return list(
            scores_to_protos(
                scores, message.request_id, item.dtype, self._core.info.limits.max_chunk_rows
            )
        )

    def _item(self, message: pb.ScoreRequest) -> ScoreItem:
        check_item_bytes(message.ByteSize(), self._core.info)
        refuse_unsupported(unsupported_request_part(message))
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


def _cost(message: pb.ScoreRequest, max_response_tokens: int) -> int:
    """What a request spends (see protos.item.ScoreItem.cost), before it is decoded."""
    if message.HasField("response_ids"):
        return max(1, len(message.response_ids.data) // 4)
    text = message.response_text or message.response_turns
    return max(1, min(len(text.encode()), max_response_tokens))
