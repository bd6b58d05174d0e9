"""Pure pairs x_to_proto / x_from_proto of the rollout contract. Shapes are checked against the bytes that came."""

from __future__ import annotations

from typing import Literal

from protos.array_codec import array_from_proto, array_to_proto, ids_from_proto, ids_to_proto
from protos.arrays import Floats, Ids, no_ids
from protos.errors import EchoMismatch, ErrorDetail, InvalidItem
from protos.item import Candidates
from protos.policy import Policy
from protos.rollout_info import RolloutInfo, RolloutLimits
from protos.rollout_request import RolloutPrompt, RolloutRequest
from protos.sampled_response import SampledResponse
from protos.v1 import rollout_pb2 as pb
from protos.v1 import teacher_pb2
from protos.weights import DTYPE_BYTES, Weight, WeightSet

_INFO_SCALARS = (
    "model_id",
    "tokenizer_fingerprint",
    "processor_fingerprint",
    "vocab_size",
    "context_length",
    "dtype",
)
_LIMIT_NAMES = tuple(RolloutLimits.__dataclass_fields__)


def _optional_ids(message: pb.SampleRequest, field: Literal["stop_ids", "suppressed_ids"]) -> Ids:
    return ids_from_proto(getattr(message, field), field) if message.HasField(field) else no_ids()


def policy_to_proto(policy: Policy | None) -> pb.Policy | None:
    """An absent message for None."""
    return None if policy is None else pb.Policy(run=policy.run, version=policy.version)


def policy_from_proto(
    message: pb.RolloutInfo
    | pb.SampleRequest
    | pb.SampledResponse
    | pb.WeightsHeader
    | pb.UpdateReply,
) -> Policy | None:
    """The message's policy, None where it has none."""
    if not message.HasField("policy"):
        return None
    return Policy(message.policy.run, message.policy.version)


# ------------------------------------------------------------------------------------------------ info


def rollout_info_to_proto(info: RolloutInfo) -> pb.RolloutInfo:
    """The answer to Describe."""
    return pb.RolloutInfo(
        **{name: getattr(info, name) for name in _INFO_SCALARS},
        policy=policy_to_proto(info.policy),
        limits=pb.Limits(**{name: getattr(info.limits, name) for name in _LIMIT_NAMES}),
        versions=info.versions,
    )


def rollout_info_from_proto(message: pb.RolloutInfo) -> RolloutInfo:
    """Who the server is, from its answer."""
    limits = {name: getattr(message.limits, name) for name in _LIMIT_NAMES}
    limits["image_formats"] = tuple(message.limits.image_formats)
    return RolloutInfo(
        **{name: getattr(message, name) for name in _INFO_SCALARS},
        policy=policy_from_proto(message),
        limits=RolloutLimits(**limits),
        versions=dict(message.versions),
    )


# ------------------------------------------------------------------------------------------- requests


def rollout_prompt_to_proto(prompt: RolloutPrompt) -> pb.SamplePrompt:
    """One prompt of a request."""
    return pb.SamplePrompt(
        ids=ids_to_proto(prompt.ids),
        images=prompt.images,
        responses=prompt.responses,
        expanded_length=prompt.expanded_length,
        seed=prompt.seed,
    )


def rollout_request_to_proto(request: RolloutRequest) -> pb.SampleRequest:
    """`request` in one message, whatever its size."""
    return pb.SampleRequest(
        policy=policy_to_proto(request.policy),
        prompts=[rollout_prompt_to_proto(prompt) for prompt in request.prompts],
        max_new_tokens=request.max_new_tokens,
        candidates=request.candidates,
        stop_ids=ids_to_proto(request.stop_ids),
        suppressed_ids=ids_to_proto(request.suppressed_ids),
        vocab_size=request.vocab_size,
        greedy=request.greedy,
    )


def rollout_request_from_proto(message: pb.SampleRequest) -> RolloutRequest:
    """The message's request; InvalidItem where an array's dtype, shape and bytes disagree."""
    return RolloutRequest(
        prompts=tuple(
            RolloutPrompt(
                ids=ids_from_proto(prompt.ids, f"prompts[{i}].ids"),
                images=tuple(prompt.images),
                responses=prompt.responses,
                expanded_length=prompt.expanded_length,
                seed=prompt.seed,
            )
            for i, prompt in enumerate(message.prompts)
        ),
        max_new_tokens=message.max_new_tokens,
        stop_ids=_optional_ids(message, "stop_ids"),
        policy=policy_from_proto(message),
        candidates=message.candidates,
        suppressed_ids=_optional_ids(message, "suppressed_ids"),
        vocab_size=message.vocab_size,
        greedy=message.greedy,
    )


# ------------------------------------------------------------------------------------------ responses


def sampled_response_to_proto(response: SampledResponse) -> pb.SampledResponse:
    """One finished answer."""
    message = pb.SampledResponse(
        prompt_index=response.prompt_index,
        response_index=response.response_index,
        policy=policy_to_proto(response.policy),
        response_ids=ids_to_proto(response.response_ids),
        logprobs=array_to_proto(response.logprobs, teacher_pb2.F32),
        finished=response.finished,
    )
    if response.candidates is not None:
        message.candidate_splits.CopyFrom(ids_to_proto(response.candidates.splits))
        message.candidate_ids.CopyFrom(ids_to_proto(response.candidates.ids))
    return message


def sampled_response_from_proto(message: pb.SampledResponse) -> SampledResponse:
    """The answer; EchoMismatch where its arrays do not belong together."""
    response_ids = ids_from_proto(message.response_ids, "response_ids")
    logprobs: Floats = array_from_proto(message.logprobs, "logprobs", teacher_pb2.F32)
    candidates = None
    if message.HasField("candidate_splits"):
        candidates = Candidates(
            splits=ids_from_proto(message.candidate_splits, "candidate_splits"),
            ids=ids_from_proto(message.candidate_ids, "candidate_ids"),
        )
        whole = candidates.splits[0] == 0 and candidates.splits[-1] == len(candidates.ids)
        if len(candidates.splits) != len(response_ids) + 1 or not whole:
            raise EchoMismatch(f"candidates of {len(response_ids)} tokens do not add up")
    if not len(response_ids) or len(logprobs) != len(response_ids):
        raise EchoMismatch(f"{len(response_ids)} tokens with {len(logprobs)} log-probabilities")
    return SampledResponse(
        prompt_index=message.prompt_index,
        response_index=message.response_index,
        policy=policy_from_proto(message),
        response_ids=response_ids,
        logprobs=logprobs,
        candidates=candidates,
        finished=message.finished,
    )


# --------------------------------------------------------------------------------------------- weights


def weights_header_to_proto(weights: WeightSet, policy: Policy) -> pb.WeightsHeader:
    """What comes before the weights' bytes."""
    return pb.WeightsHeader(
        policy=policy_to_proto(policy),
        dtype=weights.dtype,
        weights=[pb.Weight(name=w.name, shape=w.shape) for w in weights.weights],
    )


def weights_header_from_proto(message: pb.WeightsHeader) -> tuple[WeightSet, Policy]:
    """Which weights will come, and whose; InvalidItem where the header does not say."""
    policy = policy_from_proto(message)
    if policy is None:
        raise InvalidItem(
            "the header names no policy; set `policy`", ErrorDetail(field="header.policy")
        )
    if message.dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise InvalidItem(
            f"weights of dtype {message.dtype!r} can't be loaded; send {known}",
            ErrorDetail(field="header.dtype", value=message.dtype, limit=known),
        )
    weights = tuple(Weight(weight.name, tuple(weight.shape)) for weight in message.weights)
    return WeightSet(weights, message.dtype), policy
