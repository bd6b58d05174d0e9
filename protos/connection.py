"""One stream to one server: prompts put once, responses scored in any order. It ends with its first failure."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.agreement import check_fingerprints
from protos.channel import client_options
from protos.credentials import Credentials
from protos.credit import CreditWindow
from protos.error_codec import error_from_proto
from protos.errors import (
    Cancelled,
    DeadlineExceeded,
    EchoMismatch,
    ErrorDetail,
    InternalFault,
    InvalidItem,
    LimitExceeded,
    TeacherError,
    Unavailable,
    error_from_code,
)
from protos.fingerprint import echo
from protos.info_codec import info_from_proto
from protos.item import ScoreItem
from protos.prompt import AnyPrompt
from protos.request_codec import item_to_proto, prompt_to_proto
from protos.scores import Scores
from protos.scores_codec import scores_from_proto
from protos.teacher_info import TeacherInfo
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherStub
from protos.wire_stats import WireStats

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Teacher"].full_name
LINE_LOST = frozenset(
    {
        *(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN),
        *(grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED),
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # nothing was read for too long: this process was stopped
    }
)
"""Of a whole stream: a line that is cut in the middle of a frame ends with any of these. An item's own status is its
answer; that of a stream says nothing of the items in it.
"""
ANSWER_GRACE_S = 5.0
"""After an item's deadline the server is given so long to say so itself."""


@dataclass(frozen=True)
class HeldPrompt:
    """A prompt that this stream's server holds."""

    prompt_id: int
    mm_length: int
    """Tokens after the teacher expanded the images."""
    text_length: int
    digest: bytes


class _Pending:
    """An item that waits for its scores."""

    def __init__(self) -> None:
        self.chunks: list[Scores] = []
        self.done: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()


@dataclass(frozen=True)
class ConnectionSettings:
    """What every connection of a client has in common."""

    tokenizer_fingerprint: str = ""
    """The client's own (protos.fingerprint); another one is refused on connecting. Empty: not compared."""
    processor_fingerprint: str = ""
    """The client's own; another one is a warning."""
    max_inflight_tokens: int = 65_536
    """Response tokens that wait for their scores; callers beyond it wait."""
    deadline_s: float = 600.0
    """For items without one of their own."""
    credentials: Credentials = field(default_factory=Credentials)


class Connection:
    """Every method raises a `TeacherError`; one item's error leaves the others alone."""

    def __init__(
        self,
        address: str,
        settings: ConnectionSettings,
        stats: WireStats,
        on_health: Callable[[], None] = lambda: None,
    ) -> None:
        self.address = address
        self.stats = stats
        self.id = uuid.uuid4().hex[:12]
        """Stands in the logs of both sides."""
        self.draining = False
        """The server takes nothing new: it said so on the stream, or its health does."""
        self._on_health = on_health
        """Called when `draining` changes."""
        self._settings = settings
        self._info: TeacherInfo | None = None
        self._last_id = 0
        self._outbox: asyncio.Queue[pb.ClientMessage | None] = asyncio.Queue()
        self._items: dict[int, _Pending] = {}
        self._prompts: dict[int, asyncio.Future[pb.PromptAck]] = {}
        self._failure: TeacherError | None = None
        self._channel: grpc.aio.Channel | None = None
        self._reader: asyncio.Task[None] | None = None
        self._credit = CreditWindow(settings.max_inflight_tokens, self._check_alive)
        self._ended = asyncio.Event()
        self._call: grpc.aio.StreamStreamCall[pb.ClientMessage, pb.ServerMessage] | None = None
        self._watcher: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------------------------- life

    async def connect(self, timeout_s: float) -> TeacherInfo:
        """Describe the teacher, refuse a foreign tokenizer, open the stream."""
        self._channel = self._settings.credentials.channel(self.address, client_options())
        stub: Any = TeacherStub(self._channel)  # its methods are made at run time
        metadata = self._settings.credentials.metadata(self.id)
        try:
            reply: pb.TeacherInfo = await stub.Describe(
                pb.DescribeRequest(), wait_for_ready=True, timeout=timeout_s, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            # Its traceback would keep the closed channel knocking for as long as somebody keeps the error.
            raise self._connect_error(error, timeout_s) from error.with_traceback(None)
        info = info_from_proto(reply)
        check_fingerprints(
            info,
            self._settings.tokenizer_fingerprint,
            self._settings.processor_fingerprint,
            self.address,
        )
        self._info = info
        call = self._call = stub.Score(self._outgoing(), metadata=metadata)
        self._reader = asyncio.create_task(self._read(call))
        self._watcher = asyncio.create_task(self._watch_health(self._channel))
        log.info("connected address=%s stream=%s teacher=%s", self.address, self.id, info.model_id)
        return info

    def _connect_error(self, error: grpc.aio.AioRpcError, timeout_s: float) -> TeacherError:
        if error.code() in (
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
        ):
            return error_from_code(error.code().value[0], f"{self.address}: {error.details()}")
        return Unavailable(
            f"no teacher answers at {self.address} within {timeout_s:g} s ({error.code().name}: {error.details()}); is "
            f"it running, and is the address right? `teacher-server doctor {self.address}` tells more"
        )

    async def _watch_health(self, channel: grpc.aio.Channel) -> None:
        """Until the channel closes. A server without a health service is as healthy as its stream."""
        health: Any = health_pb2_grpc.HealthStub(channel)  # its methods are made at run time
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        call = health.Watch(request)
        try:
            async for answer in call:
                self._set_draining(answer.status != health_pb2.HealthCheckResponse.SERVING)
        except grpc.aio.AioRpcError as error:
            log.debug("health_unwatched address=%s %s", self.address, error.code())
        finally:
            call.cancel()  # what is abandoned is never collected

    def _set_draining(self, draining: bool) -> None:
        if draining != self.draining:
            self.draining = draining
            self._on_health()

    @property
    def alive(self) -> bool:
        """Whether the stream goes on."""
        return self._failure is None

    async def ended(self) -> TeacherError:
        """Wait for the stream to end; returns why."""
        await self._ended.wait()
        assert self._failure is not None, "a stream ends for a reason"
        return self._failure

    def end(self, error: TeacherError) -> None:
        """Fail what waits, and all that follows, with `error`."""
        self._fail_all(error)

    async def close(self) -> None:
        """End the stream; what still waits fails with Cancelled."""
        self._fail_all(Cancelled("the client was closed"))
        await self._credit.wake()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        try:
            if self._reader is not None:
                self._outbox.put_nowait(None)
                # Not the task that reads: gRPC would lose the memory of the message under way (grpc#43360).
                if self._call is not None:
                    self._call.cancel()
                await asyncio.wait({self._reader})
        finally:
            if self._channel is not None:
                await self._channel.close()

    @property
    def info(self) -> TeacherInfo:
        """Who the teacher is; known once connected."""
        if self._info is None:
            raise Unavailable("not connected; call connect()")
        return self._info

    # ------------------------------------------------------------------------------------ calls

    async def put_prompt(self, prompt: AnyPrompt) -> HeldPrompt:
        """Hand over a prompt; returns once the teacher has decoded and expanded it, within `deadline_s`."""
        self._check_alive()
        prompt_id = self._next_id()
        self._send(pb.ClientMessage(put_prompt=prompt_to_proto(prompt, prompt_id)))
        acked: asyncio.Future[pb.PromptAck] = asyncio.get_running_loop().create_future()
        self._prompts[prompt_id] = acked
        try:
            async with asyncio.timeout(self._settings.deadline_s):
                ack = await acked
        except asyncio.CancelledError:
            self._forget(prompt_id)
            raise
        except TimeoutError as error:
            if isinstance(error, TeacherError):
                raise
            self._forget(prompt_id)
            raise DeadlineExceeded(
                f"{self.address} did not take the prompt within {self._settings.deadline_s:g} s",
                ErrorDetail(field="deadline_s", value=f"{self._settings.deadline_s:g}"),
            ) from error
        finally:
            self._prompts.pop(prompt_id, None)
        return HeldPrompt(prompt_id, ack.mm_length, ack.text_length, prompt.digest)

    def forget_prompt(self, prompt: HeldPrompt) -> None:
        """Let the server forget a prompt; responses already sent are still scored."""
        self._forget(prompt.prompt_id)

    async def score(self, prompt: HeldPrompt, item: ScoreItem) -> Scores:
        """Scores of one response. Cancelling the awaiting task takes the item back."""
        deadline_s = item.deadline_s if item.deadline_s is not None else self._settings.deadline_s
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline_s
        request_id = self._next_id()
        # One token at least: an empty response is the teacher's to refuse.
        tokens = item.cost(self.info.limits.max_response_tokens)
        self._check_length(len(item.response_ids))
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
        self.stats.scored_tokens += scores.rows
        self._check_echo(prompt, item, scores, request_id)
        return scores

    def _check_echo(
        self, prompt: HeldPrompt, item: ScoreItem, scores: Scores, request_id: int
    ) -> None:
        same_rows, echoed = True, scores.response_ids
        if item.text is None:
            echoed = item.response_ids
            same_rows = np.array_equal(scores.response_ids, item.scored_ids)
        if not same_rows or scores.echo != echo(prompt.digest, echoed):
            raise EchoMismatch(
                f"{self.address} scored other ids or images than those that were sent (request {request_id})"
            )

    # ----------------------------------------------------------------------------------- stream

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure.again()

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
            log.exception("reader_failed address=%s stream=%s", self.address, self.id)
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
                self._set_draining(self.draining or message.notice.draining)
                log.warning(
                    "notice address=%s stream=%s draining=%s %s",
                    self.address,
                    self.id,
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
        try:
            pending.chunks.append(scores_from_proto(message))
        except TeacherError as error:  # the server's fault, and this item's alone
            pending.done.set_exception(EchoMismatch(f"what {self.address} sent: {error.message}"))
            return
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
        self._ended.set()
        waiting = [*(p.done for p in self._items.values()), *self._prompts.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(error.again())

    def _stream_error(self, error: grpc.aio.AioRpcError) -> TeacherError:
        text = f"the stream to {self.address} broke: {error.code().name}: {error.details()}"
        if "larger than max" in str(error.details()):
            text += "; a message went beyond gRPC's own limit, which ends the whole call"
            return LimitExceeded(text)
        if error.code() in LINE_LOST:
            return Unavailable(text)
        return error_from_code(error.code().value[0], text)
