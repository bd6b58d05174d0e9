"""Asynchronous client of one teacher: prompts put once, responses scored in any order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
import numpy as np

from protos.channel import client_options
from protos.codec import (
    error_from_proto,
    item_to_proto,
    prompt_to_proto,
    scores_from_proto,
)
from protos.credit import CreditWindow
from protos.errors import (
    Cancelled,
    DeadlineExceeded,
    EchoMismatch,
    ErrorDetail,
    InternalFault,
    InvalidItem,
    LimitExceeded,
    PreconditionFailed,
    TeacherError,
    Unavailable,
    error_from_code,
)
from protos.fingerprint import echo
from protos.info_codec import info_from_proto
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherStub

log = logging.getLogger(__name__)

ANSWER_GRACE_S = 5.0
"""After an item's deadline the server is given so long to say so itself."""


@dataclass(frozen=True)
class PutPrompt:
    """A prompt that the teacher holds."""

    prompt_id: int
    mm_length: int
    """Tokens after the teacher expanded the images."""
    text_length: int
    digest: bytes


@dataclass
class WireStats:
    """What crossed the wire so far; message bytes, without HTTP/2 framing."""

    sent_bytes: int = 0
    received_bytes: int = 0
    scored_tokens: int = 0

    @property
    def bytes_per_token(self) -> float:
        """Bytes in both directions per scored response token; NaN before the first one."""
        if not self.scored_tokens:
            return float("nan")
        return (self.sent_bytes + self.received_bytes) / self.scored_tokens


class _Pending:
    """An item that waits for its scores."""

    def __init__(self) -> None:
        self.chunks: list[Scores] = []
        self.done: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()


class TeacherClient:
    """One stream to one teacher. Use as `async with TeacherClient(address, ...) as teacher`.

    `tokenizer_fingerprint` (protos.fingerprint) is compared on connecting, before any rollout is made; a difference
    in `processor_fingerprint` is a warning.
    `max_inflight_tokens` bounds the response tokens that wait for their scores; callers beyond it wait.
    `deadline_s` is used for items without one of their own.

    Every method raises a `TeacherError`; one item's error leaves the others alone.
    """

    def __init__(
        self,
        address: str,
        *,
        tokenizer_fingerprint: str = "",
        processor_fingerprint: str = "",
        max_inflight_tokens: int = 65_536,
        deadline_s: float = 600.0,
        connect_timeout_s: float = 30.0,
    ) -> None:
        self.address = address
        self.stats = WireStats()
        self._fingerprint = tokenizer_fingerprint
        self._processor_fingerprint = processor_fingerprint
        self._deadline_s = deadline_s
        self._connect_timeout_s = connect_timeout_s
        self._info: TeacherInfo | None = None
        self._last_id = 0
        self._outbox: asyncio.Queue[pb.ClientMessage | None] = asyncio.Queue()
        self._items: dict[int, _Pending] = {}
        self._prompts: dict[int, asyncio.Future[pb.PromptAck]] = {}
        self._failure: TeacherError | None = None
        self._channel: grpc.aio.Channel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._credit = CreditWindow(max_inflight_tokens, self._check_alive)

    # ------------------------------------------------------------------------------------- life

    async def __aenter__(self) -> TeacherClient:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> TeacherInfo:
        """Describe the teacher, refuse a foreign tokenizer, open the stream."""
        self._channel = grpc.aio.insecure_channel(self.address, options=client_options())
        stub: Any = TeacherStub(self._channel)  # its methods are made at run time
        try:
            reply: pb.TeacherInfo = await stub.Describe(
                pb.DescribeRequest(), wait_for_ready=True, timeout=self._connect_timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise Unavailable(
                f"no teacher answers at {self.address} within {self._connect_timeout_s:g} s "
                f"({error.code().name}: {error.details()}); is it running, and is the address right?"
            ) from error
        info = info_from_proto(reply)
        if self._fingerprint and info.tokenizer_fingerprint != self._fingerprint:
            raise PreconditionFailed(
                f"teacher {info.model_id!r} has another tokenizer than the student "
                f"({info.tokenizer_fingerprint[:12]} against {self._fingerprint[:12]}): its ids mean other "
                "tokens; use a teacher and a student of one family",
                ErrorDetail(
                    field="tokenizer_fingerprint",
                    value=self._fingerprint,
                    limit=info.tokenizer_fingerprint,
                ),
            )
        if self._processor_fingerprint not in ("", info.processor_fingerprint):
            log.warning(
                "teacher %r preprocesses images otherwise than the student does (%s against %s): the two may see a "
                "picture at different sizes",
                info.model_id,
                info.processor_fingerprint[:12],
                self._processor_fingerprint[:12],
            )
        self._info = info
        self._reader = asyncio.create_task(self._read(stub.Score(self._outgoing())))
        return info

    async def close(self) -> None:
        """End the stream; what still waits fails with Cancelled."""
        self._fail_all(Cancelled("the client was closed"))
        await self._credit.wake()
        try:
            if self._reader is not None:
                self._outbox.put_nowait(None)
                self._reader.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._reader
        finally:
            if self._channel is not None:
                await self._channel.close()

    @property
    def info(self) -> TeacherInfo:
        """Who the teacher is; known once connected."""
        if self._info is None:
            raise Unavailable("the client is not connected; use `async with` or call connect()")
        return self._info

    # ------------------------------------------------------------------------------------ calls

    async def put_prompt(self, prompt: Prompt) -> PutPrompt:
        """Hand over a prompt; returns once the teacher has decoded and expanded it, within `deadline_s`."""
        self._check_alive()
        prompt_id = self._next_id()
        self._send(pb.ClientMessage(put_prompt=prompt_to_proto(prompt, prompt_id)))
        acked: asyncio.Future[pb.PromptAck] = asyncio.get_running_loop().create_future()
        self._prompts[prompt_id] = acked
        try:
            async with asyncio.timeout(self._deadline_s):
                ack = await acked
        except asyncio.CancelledError:
            self._forget(prompt_id)
            raise
        except TimeoutError as error:
            if isinstance(error, TeacherError):
                raise
            self._forget(prompt_id)
            raise DeadlineExceeded(
                f"{self.address} did not take the prompt within {self._deadline_s:g} s",
                ErrorDetail(field="deadline_s", value=f"{self._deadline_s:g}"),
            ) from error
        finally:
            self._prompts.pop(prompt_id, None)
        return PutPrompt(prompt_id, ack.mm_length, ack.text_length, prompt.digest)

    async def drop_prompt(self, prompt: PutPrompt) -> None:
        """Let the teacher forget a prompt; responses already sent are still scored."""
        self._check_alive()
        self._forget(prompt.prompt_id)

    async def score(self, prompt: PutPrompt, item: ScoreItem) -> Scores:
        """Scores of one response. Cancelling the awaiting task takes the item back."""
        deadline_s = item.deadline_s if item.deadline_s is not None else self._deadline_s
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline_s
        request_id = self._next_id()
        # What it costs; an empty response is the teacher's to refuse.
        tokens = max(1, len(item.response_ids))
        self._check_length(tokens)
        pending = _Pending()
        sent = False
        try:
            async with asyncio.timeout_at(ends + ANSWER_GRACE_S):
                await self._credit.take(tokens)
                try:
                    left_s = max(ends - loop.time(), 0.001)
                    message = item_to_proto(
                        replace(item, deadline_s=left_s), request_id, prompt.prompt_id
                    )
                    self._items[request_id] = pending
                    self._send(pb.ClientMessage(score=message))
                    sent = True
                    scores = await pending.done
                finally:
                    self._items.pop(request_id, None)
                    await self._credit.settle(tokens, sent=sent)
        except TimeoutError as error:
            if isinstance(error, TeacherError):
                raise
            self._cancel(request_id, sent)
            raise DeadlineExceeded(
                f"no answer from {self.address} within {deadline_s:g} s; raise deadline_s or lower the load",
                ErrorDetail(field="deadline_s", value=f"{deadline_s:g}"),
            ) from error
        except asyncio.CancelledError:
            self._cancel(request_id, sent)
            raise
        self.stats.scored_tokens += tokens
        same_rows = np.array_equal(scores.response_ids, item.response_ids)
        if not same_rows or scores.echo != echo(prompt.digest, item.response_ids):
            raise EchoMismatch(
                f"{self.address} scored other ids or images than those that were sent (request {request_id})"
            )
        return scores

    # ----------------------------------------------------------------------------------- stream

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(self._failure.message, self._failure.detail)

    def _check_length(self, tokens: int) -> None:
        """A response beyond the teacher's limit would wait for credit that can never come."""
        limit = self.info.limits.max_response_tokens
        if tokens > limit:
            raise InvalidItem(
                f"the response has {tokens} tokens, the teacher's limit is {limit}; it is never truncated",
                ErrorDetail("response_ids", str(tokens), str(limit)),
            )

    def _send(self, message: pb.ClientMessage) -> None:
        size = message.ByteSize()
        limit = self.info.limits.max_message_bytes
        if size > limit:
            raise LimitExceeded(
                f"the message has {size} bytes, the teacher's gRPC limit is {limit}: sent, it would end the "
                "whole call; send fewer or smaller images",
                ErrorDetail(field="message", value=str(size), limit=str(limit)),
            )
        self.stats.sent_bytes += size
        self._outbox.put_nowait(message)

    def _forget(self, prompt_id: int) -> None:
        if self._failure is None:
            self._send(pb.ClientMessage(drop_prompt=pb.DropPrompt(prompt_id=prompt_id)))

    def _cancel(self, request_id: int, sent: bool) -> None:
        if sent and self._failure is None:
            self._send(pb.ClientMessage(cancel=pb.Cancel(request_id=request_id)))

    async def _outgoing(self) -> AsyncIterator[pb.ClientMessage]:
        while (message := await self._outbox.get()) is not None:
            yield message

    async def _read(
        self, call: grpc.aio.StreamStreamCall[pb.ClientMessage, pb.ServerMessage]
    ) -> None:
        try:
            async for message in call:
                self.stats.received_bytes += message.ByteSize()
                await self._dispatch(message)
            self._fail_all(Unavailable(f"{self.address} ended the stream"))
        except grpc.aio.AioRpcError as error:
            self._fail_all(self._stream_error(error))
        except TeacherError as error:
            self._fail_all(error)
        except Exception as error:
            log.exception("reader_failed address=%s", self.address)
            self._fail_all(
                InternalFault(f"the client failed on what {self.address} sent: {error!r}")
            )
        finally:
            call.cancel()
            await self._credit.wake()

    async def _dispatch(self, message: pb.ServerMessage) -> None:
        match message.WhichOneof("message"):
            case "scores":
                self._take_chunk(message.scores)
            case "error":
                self._fail_item(message.error)
            case "prompt_ack":
                acked = self._prompts.get(message.prompt_ack.prompt_id)
                if acked is not None and not acked.done():
                    acked.set_result(message.prompt_ack)
            case "credit":
                await self._credit.grant(message.credit.granted_tokens)
            case "notice":
                log.warning(
                    "notice address=%s draining=%s %s",
                    self.address,
                    message.notice.draining,
                    message.notice.message,
                )
            case _:
                log.warning("unknown message address=%s; is the server newer?", self.address)

    def _take_chunk(self, message: pb.Scores) -> None:
        pending = self._items.get(message.request_id)
        if pending is None or pending.done.done():
            return
        rows = sum(chunk.rows for chunk in pending.chunks)
        if message.first_row != rows:
            pending.done.set_exception(
                EchoMismatch(f"rows {rows} and on are missing before row {message.first_row}")
            )
            return
        pending.chunks.append(scores_from_proto(message))
        if message.last:
            pending.done.set_result(Scores.join(pending.chunks))

    def _fail_item(self, message: pb.ItemError) -> None:
        error = error_from_proto(message)
        waiting: asyncio.Future[Scores] | asyncio.Future[pb.PromptAck] | None
        if message.WhichOneof("item") == "prompt_id":
            waiting = self._prompts.get(message.prompt_id)
        else:
            pending = self._items.get(message.request_id)
            waiting = pending.done if pending else None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    def _fail_all(self, error: TeacherError) -> None:
        self._failure = self._failure or error
        waiting = [*(p.done for p in self._items.values()), *self._prompts.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(type(error)(error.message, error.detail))

    def _stream_error(self, error: grpc.aio.AioRpcError) -> TeacherError:
        text = f"the stream to {self.address} broke: {error.details()}"
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            text += "; a message went beyond gRPC's own limit, which ends the whole call"
        return error_from_code(error.code().value[0], text)
