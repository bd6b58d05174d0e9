"""The gRPC face: decodes, asks the gate, delegates to the engine, maps exceptions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio

from protos.errors import CODES, ErrorDetail, InvalidItem, TeacherError, Unavailable
from protos.rollout_codec import (
    policy_to_proto,
    rollout_info_to_proto,
    rollout_request_from_proto,
    sampled_response_to_proto,
    weights_header_from_proto,
)
from protos.v1 import rollout_pb2 as pb
from protos.v1.rollout_pb2_grpc import RolloutsServicer
from rollout_server.engine import Engine
from rollout_server.policy_gate import PolicyGate
from rollout_server.staging import Staging
from rollout_server.validation import check_request, check_size

log = logging.getLogger(__name__)


class Servicer(RolloutsServicer):
    """vgs.rollout.v1.Rollouts over an Engine. `staging_dir` is where weights wait."""

    def __init__(self, engine: Engine, staging_dir: Path | None) -> None:
        self._engine = engine
        self._staging_dir = staging_dir
        self._gate = PolicyGate()

    async def Describe(
        self, request: pb.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> pb.RolloutInfo:
        """Identity, limits and the policy that is held now."""
        return rollout_info_to_proto(replace(self._engine.info, policy=self._gate.policy))

    async def Sample(
        self, request: pb.SampleRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.SampledResponse]:
        """Answers of one policy, as they are finished."""
        async with _aborts(context):
            self._refuse_dead()
            info = self._engine.info
            check_size("the request", request.ByteSize(), info.limits.max_request_bytes)
            wanted = rollout_request_from_proto(request)
            check_request(wanted, info, self._engine.placeholder_id)
            async with (
                self._gate.sampling(wanted.policy) as policy,
                contextlib.aclosing(self._engine.sample(wanted, policy)) as responses,
            ):
                async for response in responses:
                    yield sampled_response_to_proto(response)

    async def UpdateWeights(
        self,
        request_iterator: AsyncIterator[pb.WeightMessage],
        context: grpc.aio.ServicerContext,
    ) -> pb.UpdateReply:
        """Take all weights in, then load them at once."""
        async with _aborts(context):
            self._refuse_dead()
            started_s, limits = time.monotonic(), self._engine.info.limits
            first = await anext(aiter(request_iterator), pb.WeightMessage())
            weights, policy = weights_header_from_proto(first.header)
            self._engine.layout.check(weights)
            self._gate.refuse_older(policy)
            with Staging(weights, self._staging_dir) as staging:
                async for message in request_iterator:
                    if message.WhichOneof("message") != "chunk":
                        raise InvalidItem(
                            "after the header come chunks alone", ErrorDetail("message")
                        )
                    check_size("chunk", len(message.chunk), limits.max_chunk_bytes)
                    staging.write(message.chunk)
                received_s = time.monotonic()
                # A client that goes away now must not leave half of the weights behind.
                path = staging.complete()
                async with self._gate.updating(policy):
                    await _finish(asyncio.create_task(self._engine.load(path, policy)))
            loaded_s = time.monotonic()
            log.info(
                "updated policy=%s receive_s=%.3f load_s=%.3f",
                policy,
                received_s - started_s,
                loaded_s - received_s,
            )
            return pb.UpdateReply(
                policy=policy_to_proto(policy),
                receive_s=received_s - started_s,
                load_s=loaded_s - received_s,
            )
        raise AssertionError("unreachable: an error has aborted the call")

    def _refuse_dead(self) -> None:
        if not self._engine.alive:
            raise Unavailable("the engine has died; restart the rollout server")


async def _finish(work: asyncio.Task[None]) -> None:
    """Wait for `work` to the end, however often this is cancelled meanwhile."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            cancelled = True
    await work
    if cancelled:
        raise asyncio.CancelledError


@contextlib.asynccontextmanager
async def _aborts(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """End the call with the status that the table of errors gives an exception."""
    try:
        yield
    except TeacherError as error:
        await context.abort(CODES[type(error)], error.message)
    except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
        raise
    except Exception:
        # gRPC would send the exception's text: leak nothing.
        error_id = uuid.uuid4().hex[:12]
        log.exception("call_failed error_id=%s", error_id)
        await context.abort(
            grpc.StatusCode.INTERNAL, f"internal error {error_id}; the server's log has more"
        )
