import numpy as np
import pytest

from protos.errors import EchoMismatch, InvalidItem
from protos.item import Candidates
from protos.policy import Policy
from protos.rollout_codec import (
    rollout_info_from_proto,
    rollout_info_to_proto,
    rollout_request_from_proto,
    rollout_request_to_proto,
    sampled_response_from_proto,
    sampled_response_to_proto,
    weights_header_from_proto,
    weights_header_to_proto,
)
from protos.rollout_info import RolloutInfo, RolloutLimits
from protos.rollout_request import RolloutPrompt, RolloutRequest
from protos.sampled_response import SampledResponse
from protos.v1 import rollout_pb2 as pb
from protos.weights import Weight, WeightSet

POLICY = Policy("run", 7)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def same(got, expected) -> bool:
    """Field by field: arrays by value."""
    if isinstance(expected, np.ndarray):
        return got.dtype == expected.dtype and np.array_equal(got, expected)
    if isinstance(expected, tuple):
        return len(got) == len(expected) and all(map(same, got, expected))
    if hasattr(expected, "__dataclass_fields__"):
        return all(
            same(getattr(got, n), getattr(expected, n)) for n in expected.__dataclass_fields__
        )
    return got == expected


def response(**changes) -> SampledResponse:
    values = {
        "prompt_index": 2,
        "response_index": 1,
        "policy": POLICY,
        "response_ids": ids(5, 6),
        "logprobs": np.array([-0.5, -2.25], dtype=np.float32),
        "candidates": Candidates(ids(0, 2, 3), ids(5, 9, 6)),
        "finished": True,
    }
    return SampledResponse(**(values | changes))


@pytest.mark.parametrize("policy", [POLICY, Policy("run", 0), None])
def test_info_comes_back(policy):
    limits = RolloutLimits(max_responses=3, image_formats=("PNG",))
    info = RolloutInfo("m", "t", "p", 73, 2048, "BF16", policy, limits, {"vllm": "1"})
    message = pb.RolloutInfo.FromString(rollout_info_to_proto(info).SerializeToString())
    assert rollout_info_from_proto(message) == info


@pytest.mark.parametrize("policy", [POLICY, None])
def test_a_request_comes_back(policy):
    prompts = (RolloutPrompt(ids(1, 2), (b"png", b""), 4, 9, 2**64 - 1), RolloutPrompt(ids(3)))
    request = RolloutRequest(prompts, 16, ids(2), policy, 8, ids(4, 5), 70, True)
    message = pb.SampleRequest.FromString(rollout_request_to_proto(request).SerializeToString())
    assert same(rollout_request_from_proto(message), request)


def test_ids_that_are_left_out_are_none():
    request = rollout_request_from_proto(pb.SampleRequest(max_new_tokens=1))
    assert len(request.stop_ids) == len(request.suppressed_ids) == 0


def test_a_prompt_whose_bytes_disagree_with_its_shape_is_named():
    message = rollout_request_to_proto(RolloutRequest((RolloutPrompt(ids(1, 2)),), 1))
    message.prompts[0].ids.shape[0] = 3
    with pytest.raises(InvalidItem, match=r"prompts\[0\]\.ids has shape \[3\] but 8 bytes"):
        rollout_request_from_proto(message)


@pytest.mark.parametrize(
    "changes",
    [{}, {"candidates": None}, {"policy": None}, {"candidates": Candidates(ids(0, 0, 0), ids())}],
)
def test_a_response_comes_back(changes):
    message = pb.SampledResponse.FromString(
        sampled_response_to_proto(response(**changes)).SerializeToString()
    )
    assert same(sampled_response_from_proto(message), response(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"logprobs": np.zeros(1, dtype=np.float32)},
        {"response_ids": ids(), "logprobs": np.zeros(0, dtype=np.float32), "candidates": None},
        {"candidates": Candidates(ids(0, 2), ids(5, 9))},
        {"candidates": Candidates(ids(0, 2, 4), ids(5, 9, 6))},
    ],
)
def test_a_response_that_does_not_add_up_is_refused(changes):
    with pytest.raises(EchoMismatch):
        sampled_response_from_proto(sampled_response_to_proto(response(**changes)))


def test_a_header_comes_back():
    weights = WeightSet((Weight("a.weight", (2, 3)), Weight("b", ())), "BF16")
    message = pb.WeightsHeader.FromString(
        weights_header_to_proto(weights, POLICY).SerializeToString()
    )
    assert weights_header_from_proto(message) == (weights, POLICY)
    assert weights.total_bytes == 14
