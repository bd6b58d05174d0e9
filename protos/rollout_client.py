"""Client of a rollout server: answers as they are finished, and new weights after a step. Synchronous."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import grpc

from protos.channel import client_options
from protos.errors import (
    EchoMismatch,
    ErrorDetail,
    LimitExceeded,
    PreconditionFailed,
    TeacherError,
    Unavailable,
    error_from_code,
)
from protos.policy import Policy
from protos.rollout_codec import (
    policy_from_proto,
    rollout_info_from_proto,
    rollout_prompt_to_proto,
    rollout_request_to_proto,
    sampled_response_from_proto,
    weights_header_to_proto,
)
from protos.rollout_info import RolloutInfo
from protos.rollout_request import RolloutRequest
from protos.sampled_response import SampledResponse
from protos.v1 import rollout_pb2 as pb
from protos.v1.rollout_pb2_grpc import RolloutsStub
from protos.weights import WeightSet, pieces

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 64
"""More than a prompt's own tag and length take in a message."""


class RolloutClient:
    """One rollout server. Use as a context manager.

    `tokenizer_fingerprint` (protos.fingerprint) is compared on connecting; a difference in `processor_fingerprint` is
    a warning. `timeout_s` bounds one round of sampling and one update of the weights.

    Every method raises the errors of `protos.errors`.
    """

    def __init__(
        self,
        address: str,
        *,
        tokenizer_fingerprint: str = "",
        processor_fingerprint: str = "",
        timeout_s: float = 600.0,
        connect_timeout_s: float = 30.0,
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(address, options=client_options())
        self._stub: Any = RolloutsStub(self._channel)  # its methods are made at run time
        try:
            self.info = self._connect(connect_timeout_s)
            self._compare(tokenizer_fingerprint, processor_fingerprint)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RolloutClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what is still under way."""
        self._channel.close()

    def describe(self) -> RolloutInfo:
        """Who the server is and which policy it holds now; `info` is what it said on connecting."""
        try:
            return rollout_info_from_proto(
                self._stub.Describe(pb.DescribeRequest(), timeout=self._timeout_s)
            )
        except grpc.RpcError as error:
            raise self._error(error) from error

    def sample(self, request: RolloutRequest) -> Iterator[SampledResponse]:
        """Responses to all prompts, in order of completion.

        A request beyond the server's message limit is sent in parts, which are answered side by side. EchoMismatch
        where a response is missing, or comes from another policy than the one asked for.
        """
        calls: list[tuple[int, Any]] = []
        arrived: queue.SimpleQueue[SampledResponse | Exception | None] = queue.SimpleQueue()
        try:
            for first, part in self._parts(request):
                call = self._stub.Sample(rollout_request_to_proto(part), timeout=self._timeout_s)
                calls.append((first, call))
                threading.Thread(
                    target=_read, args=(call, first, arrived), name="rollouts", daemon=True
                ).start()
            yield from self._gather(request, len(calls), arrived)
        except grpc.RpcError as error:
            raise self._error(error) from error
        finally:
            for _, call in calls:
                call.cancel()

    def update_weights(
        self, weights: WeightSet, buffers: Iterable[memoryview], policy: Policy
    ) -> None:
        """Hand over all of `weights`; returns once the server samples with them.

        `buffers` are their bytes in the same order: little-endian, C order, of the set's dtype.
        """
        size = self.info.limits.max_chunk_bytes

        def messages() -> Iterator[pb.WeightMessage]:
            yield pb.WeightMessage(header=weights_header_to_proto(weights, policy))
            for piece in pieces(buffers, size):
                yield pb.WeightMessage(chunk=piece)

        try:
            reply: pb.UpdateReply = self._stub.UpdateWeights(messages(), timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from error
        held = policy_from_proto(reply)
        if held != policy:
            raise EchoMismatch(f"{self.address} holds policy {held} after the update to {policy}")

    # ------------------------------------------------------------------------------------- details

    def _connect(self, timeout_s: float) -> RolloutInfo:
        try:
            reply = self._stub.Describe(
                pb.DescribeRequest(), wait_for_ready=True, timeout=timeout_s
            )
        except grpc.RpcError as error:
            found = self._error(error)
            raise Unavailable(
                f"no rollout server answers at {self.address} within {timeout_s:g} s ({found.message}); is it "
                "running, and is the address right?"
            ) from error
        return rollout_info_from_proto(reply)

    def _compare(self, tokenizer_fingerprint: str, processor_fingerprint: str) -> None:
        info = self.info
        if tokenizer_fingerprint not in ("", info.tokenizer_fingerprint):
            raise PreconditionFailed(
                f"the rollout server at {self.address} samples {info.model_id!r}, which has another tokenizer than "
                f"the student ({info.tokenizer_fingerprint[:12]} against {tokenizer_fingerprint[:12]}); start it with "
                "the student's own model",
                ErrorDetail(
                    "tokenizer_fingerprint", tokenizer_fingerprint, info.tokenizer_fingerprint
                ),
            )
        if processor_fingerprint not in ("", info.processor_fingerprint):
            log.warning(
                "the rollout server at %s preprocesses images otherwise than the student does (%s against %s)",
                self.address,
                info.processor_fingerprint[:12],
                processor_fingerprint[:12],
            )

    def _parts(self, request: RolloutRequest) -> Iterator[tuple[int, RolloutRequest]]:
        """The request in as few parts as the server's limits allow, each with the index of its first prompt."""
        limits = self.info.limits
        room = limits.max_request_bytes
        room -= rollout_request_to_proto(replace(request, prompts=())).ByteSize()
        first, used, responses = 0, 0, 0
        for index, prompt in enumerate(request.prompts):
            size = rollout_prompt_to_proto(prompt).ByteSize() + ENVELOPE_BYTES
            if size > room:
                raise LimitExceeded(
                    f"prompt {index} has {size} bytes, the server takes {limits.max_request_bytes} in one request; "
                    "send fewer or smaller images",
                    ErrorDetail(f"prompts[{index}]", str(size), str(limits.max_request_bytes)),
                )
            full = used + size > room or responses + prompt.responses > limits.max_responses
            if full and index > first:
                yield first, replace(request, prompts=request.prompts[first:index])
                first, used, responses = index, 0, 0
            used += size
            responses += prompt.responses
        if first < len(request.prompts):
            yield first, replace(request, prompts=request.prompts[first:])

    def _gather(
        self,
        request: RolloutRequest,
        calls: int,
        arrived: queue.SimpleQueue[SampledResponse | Exception | None],
    ) -> Iterator[SampledResponse]:
        waiting = _wanted([prompt.responses for prompt in request.prompts])
        while calls:
            response = arrived.get()
            if response is None:
                calls -= 1
                continue
            if isinstance(response, Exception):
                raise response
            key = response.prompt_index, response.response_index
            if key not in waiting:
                raise EchoMismatch(f"{self.address} answered what was not asked: {key}")
            if request.policy is not None and response.policy != request.policy:
                raise EchoMismatch(
                    f"{self.address} answered with policy {response.policy}, {request.policy} was asked for"
                )
            waiting.discard(key)
            yield response
        if waiting:
            raise EchoMismatch(f"{self.address} left {len(waiting)} responses out")

    def _error(self, error: grpc.RpcError) -> TeacherError:
        code: Any = error
        number, details = code.code().value[0], code.details()
        return error_from_code(number, f"rollout server {self.address}: {details}")


def _wanted(responses: Sequence[int]) -> set[tuple[int, int]]:
    return {(prompt, index) for prompt, count in enumerate(responses) for index in range(count)}


def _read(
    call: Any, first: int, arrived: queue.SimpleQueue[SampledResponse | Exception | None]
) -> None:
    """Pass one call's responses on, numbered as in the whole request, then None or the error that ended it."""
    try:
        for message in call:
            response = sampled_response_from_proto(message)
            arrived.put(replace(response, prompt_index=first + response.prompt_index))
        arrived.put(None)
    except Exception as error:
        arrived.put(error)
