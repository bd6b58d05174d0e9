"""The gRPC face: tells callers apart, hands messages to streams, maps exceptions, holds no rules of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import grpc.aio

from protos.credentials import STREAM_ID, TOKEN
from protos.errors import CODES, LimitExceeded, TeacherError, Unavailable
from protos.info_codec import info_to_proto
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherServicer
from teacher_server.client_file import Presented
from teacher_server.core import TeacherCore
from teacher_server.doorkeeper import Doorkeeper
from teacher_server.metrics import code_of
from teacher_server.stream import Stream
from teacher_server.transport import certificate_names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Caller:
    presented: Presented
    peer: str


class Servicer(TeacherServicer):
    """vgs.teacher.v1.Teacher over a TeacherCore."""

    def __init__(
        self,
        core: TeacherCore,
        window_tokens: int,
        doorkeeper: Doorkeeper | None = None,
        write_timeout_s: float = 60.0,
    ) -> None:
        self._core = core
        self._window_tokens = window_tokens
        self._doorkeeper = doorkeeper or Doorkeeper()
        self._write_timeout_s = write_timeout_s
        self._streams: dict[Stream, _Caller] = {}
        self._draining = False

    async def Describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.TeacherInfo:
        """Identity, limits (the caller's own quotas among them) and capabilities."""
        try:
            client = self._doorkeeper.identify(*_shown(context))
        except TeacherError as error:
            self._core.metrics.stream_refused(code_of(error))
            log.warning("caller_refused peer=%s code=%s", context.peer(), code_of(error))
            await _abort(context, error)
            raise
        return info_to_proto(client.info(self._core.info))

    async def Score(
        self,
        request_iterator: AsyncIterator[pb.ClientMessage],
        context: grpc.aio.ServicerContext,
    ) -> None:
        """One conversation; see `teacher_server.stream`."""
        metrics = self._core.metrics
        try:
            caller = _Caller(*_shown(context))
            client = self._doorkeeper.identify(caller.presented, caller.peer)
            if self._draining:
                raise Unavailable("the teacher is shutting down; ask another replica")
        except TeacherError as error:
            metrics.stream_refused(code_of(error))
            await _abort(context, error)
            raise
        stream = Stream(self._core, self._window_tokens, client, _stream_name(context))
        self._streams[stream] = caller
        metrics.stream_opened(client.name)
        log.info(
            "stream_opened stream=%s client=%s peer=%s open=%d",
            *(stream.name, client.name or "-", caller.peer, len(self._streams)),
        )
        code = "CANCELLED"
        try:
            async with contextlib.aclosing(stream.run(request_iterator)) as messages:
                async for message in messages:
                    await self._write(context, message)
            code = "OK"
        except TeacherError as error:
            # Freed now: to one who does not read, the status itself may not get through for hours.
            self._close(stream, code := code_of(error))
            await _abort(context, error)
        except Exception:
            # gRPC would send the exception's text: leak nothing.
            code, error_id = "INTERNAL", uuid.uuid4().hex[:12]
            log.exception("stream_failed stream=%s error_id=%s", stream.name, error_id)
            await context.abort(grpc.StatusCode.INTERNAL, f"internal error {error_id}")
        finally:
            self._close(stream, code)

    def _close(self, stream: Stream, code: str) -> None:
        """A second call does nothing."""
        if self._streams.pop(stream, None) is None:
            return
        stream.close()
        self._core.metrics.stream_closed(stream.opened_by.name, code)
        log.info("stream_closed stream=%s code=%s open=%d", stream.name, code, len(self._streams))

    async def _write(self, context: grpc.aio.ServicerContext, message: pb.ServerMessage) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await context.write(message)
        except grpc.aio.BaseError as error:
            # The caller is gone, with or without a cancel: nobody is left whom a status could be sent to, and trying
            # to is an error in gRPC's log.
            raise asyncio.CancelledError from error
        except TimeoutError as error:
            raise LimitExceeded(
                f"nothing was read for {self._write_timeout_s:g} s, so the stream is ended; read answers as they come"
            ) from error
        self._core.metrics.bytes_out(message.ByteSize())

    def identify_again(self) -> None:
        """The clients file changed: end the streams of those who are in it no more, and let the others have what it
        says now.
        """
        for stream, caller in list(self._streams.items()):
            try:
                stream.client = self._doorkeeper.identify(caller.presented, caller.peer)
            except TeacherError as error:
                log.warning("stream_revoked stream=%s client=%s", stream.name, stream.client.name)
                stream.end(error)

    async def drain(self) -> None:
        """Take no new stream, and let every open one finish what it admitted."""
        self._draining = True
        self._core.metrics.draining()
        streams = list(self._streams)
        await asyncio.gather(*(stream.drain() for stream in streams))
        await asyncio.gather(*(stream.over.wait() for stream in streams))  # answers are written too


def _shown(context: grpc.aio.ServicerContext) -> tuple[Presented, str]:
    """Asked at the beginning of a call: once it is over, asking for the peer crashes grpcio."""
    metadata = dict(context.invocation_metadata() or ())
    authorization = metadata.get(TOKEN)
    names = certificate_names(context.auth_context())
    shown = Presented.of(None if authorization is None else str(authorization), names)
    return shown, context.peer()


def _stream_name(context: grpc.aio.ServicerContext) -> str:
    """As the client calls it, but for what could pass for other fields of a log's line."""
    given = str(dict(context.invocation_metadata() or ()).get(STREAM_ID, ""))[:64]
    return "".join(c for c in given if c.isalnum() or c in "-_.") or uuid.uuid4().hex[:12]


async def _abort(context: grpc.aio.ServicerContext, error: TeacherError) -> None:
    try:
        await context.abort(CODES[type(error)], error.message)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError as gone:  # with the caller: see `_write`
        raise asyncio.CancelledError from gone
