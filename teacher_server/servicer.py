"""The gRPC face: hands messages to streams, maps exceptions, holds no rules of its own."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from protos.info_codec import info_to_proto
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherServicer
from teacher_server.core import TeacherCore
from teacher_server.stream import Stream

log = logging.getLogger(__name__)


class Servicer(TeacherServicer):
    """vgs.teacher.v1.Teacher over a TeacherCore."""

    def __init__(self, core: TeacherCore, window_tokens: int) -> None:
        self._core = core
        self._window_tokens = window_tokens
        self._streams: set[Stream] = set()
        self._draining = False

    async def Describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.TeacherInfo:
        """Identity, limits and capabilities."""
        return info_to_proto(self._core.info)

    async def Score(
        self,
        request_iterator: AsyncIterator[pb.ClientMessage],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[pb.ServerMessage]:
        """One conversation; see `teacher_server.stream`."""
        peer = context.peer()  # asked now: once the call is over, asking crashes grpcio
        if self._draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the teacher is shutting down")
        stream = Stream(self._core, self._window_tokens, client=peer)
        self._streams.add(stream)
        log.info("stream_opened peer=%s open=%d", peer, len(self._streams))
        try:
            async for message in stream.run(request_iterator):
                yield message
        except Exception:
            # gRPC would send the exception's text: leak nothing.
            error_id = uuid.uuid4().hex[:12]
            log.exception("stream_failed error_id=%s", error_id)
            await context.abort(grpc.StatusCode.INTERNAL, f"internal error {error_id}")
        finally:
            self._streams.discard(stream)
            log.info("stream_closed peer=%s open=%d", peer, len(self._streams))

    async def drain(self) -> None:
        """Take no new stream, and let every open one finish what it admitted."""
        self._draining = True
        await asyncio.gather(*(stream.drain() for stream in self._streams))
