"""What a rollout server refuses, by name and with the right code; the next good call is answered."""

import importlib.util
from dataclasses import replace

import grpc
import numpy as np
import pytest

from protos.errors import EchoMismatch, InvalidItem, LimitExceeded, PreconditionFailed
from protos.policy import Policy
from protos.rollout_client import RolloutClient
from protos.rollout_request import RolloutPrompt, RolloutRequest
from protos.v1 import rollout_pb2 as pb
from protos.v1.rollout_pb2_grpc import RolloutsStub
from protos.weights import Weight, WeightSet
from student_trainer.vllm_sampler import _wire

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="needs the vLLM environment"
    ),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture
def client(rollout_server):
    with RolloutClient(rollout_server) as client:
        yield client


@pytest.fixture
def good(prompts, student) -> RolloutRequest:
    return RolloutRequest(
        prompts=tuple(_wire(prompt, 1, 0) for prompt in prompts),
        max_new_tokens=4,
        stop_ids=np.array(student.eos_ids, dtype=np.int32),
        candidates=2,
    )


def first(request: RolloutRequest, **changes) -> RolloutRequest:
    """The request with its first prompt changed."""
    head, *rest = request.prompts
    return replace(request, prompts=(replace(head, **changes), *rest))


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: first(r, images=(b"no picture",)), r"prompts\[0\]\.images\[0\] .*decoded.*PNG"),
        (lambda r: first(r, images=()), r"prompts\[0\] has 1 placeholders .* for 0 images"),
        (lambda r: first(r, images=r.prompts[0].images * 2), "1 placeholders .* for 2 images"),
        (lambda r: first(r, expanded_length=7), r"expands to \d+ tokens here and 7 for the client"),
        (lambda r: first(r, ids=ids()), r"prompts\[0\] is empty"),
        (lambda r: first(r, ids=ids(5000), images=()), r"prompts\[0\]\.ids has id 5000"),
        (lambda r: first(r, ids=ids(*[9] * 300), images=(), expanded_length=0), r"300|256"),
        (lambda r: replace(r, max_new_tokens=250), "more than the context of 256"),
        (lambda r: replace(r, max_new_tokens=0), "max_new_tokens is 0"),
        (lambda r: replace(r, candidates=257), "candidates is 257"),
        (lambda r: replace(r, stop_ids=ids(-1)), "stop_ids has id -1"),
        (lambda r: replace(r, vocab_size=100_000), "vocab_size is 100000"),
        (lambda r: replace(r, prompts=()), "no prompts"),
        (lambda r: first(r, responses=0), "responses is 0"),
        (lambda r: replace(r, suppressed_ids=np.arange(300, dtype=np.int32), vocab_size=300), "every id"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused(client, good, change, says):
    bad = change(good)
    with pytest.raises(InvalidItem, match=says):
        # Without prompts the client has nothing to send.
        list(client.sample(bad)) if bad.prompts else _send(client, bad)
    assert len(list(client.sample(good))) == 4


def _send(client, request):
    from protos.rollout_codec import rollout_request_to_proto

    try:
        list(client._stub.Sample(rollout_request_to_proto(request)))
    except grpc.RpcError as error:
        raise client._error(error) from error


def test_a_large_request_goes_in_parts(client, good):
    request = replace(good, prompts=good.prompts * 3)
    sizes = [len(prompt.images[0]) for prompt in good.prompts[:3]]
    room = 2 * max(sizes) + 4000
    limits = replace(client.info.limits, max_request_bytes=room)
    client.info = replace(client.info, limits=limits)
    assert len(list(client._parts(request))) > 1
    responses = list(client.sample(request))
    assert sorted(r.prompt_index for r in responses) == list(range(12))
    by_prompt = {r.prompt_index: r.response_ids.tolist() for r in responses}
    assert all(by_prompt[i] == by_prompt[i + 4] for i in range(4)), "the same seed, the same answer"
    client.info = replace(client.info, limits=replace(limits, max_request_bytes=600))
    with pytest.raises(LimitExceeded, match=r"prompt \d has \d+ bytes"):
        list(client.sample(request))


def test_leaving_early_gives_the_rest_up(client, good):
    request = replace(good, prompts=good.prompts * 4, max_new_tokens=100)
    responses = client.sample(request)
    next(responses)
    responses.close()
    assert len(list(client.sample(good))) == 4


# ------------------------------------------------------------------------------------------------ weights


@pytest.fixture
def state(student):
    return student.checkpoint_weights()


def as_set(state, dtype: str = "F32") -> WeightSet:
    return WeightSet(tuple(Weight(n, tuple(t.shape)) for n, t in state.items()), dtype)


def buffers(state):
    return (tensor.contiguous().numpy().data for tensor in state.values())


def test_an_update_that_does_not_fit_changes_nothing(client, good, state):
    client.update_weights(as_set(state), buffers(state), Policy("a", 5))
    held = replace(good, policy=Policy("a", 5))
    before = {r.prompt_index: r.response_ids.tolist() for r in client.sample(held)}

    def refused(
        weights: WeightSet, error: type[Exception], says: str, version=6, tensors=state
    ) -> None:
        with pytest.raises(error, match=says):
            client.update_weights(weights, buffers(tensors), Policy("a", version))
        assert client.describe().policy == Policy("a", 5)

    whole = as_set(state)
    some = whole.weights
    odd = Weight(some[0].name, (*some[0].shape, 1))
    refused(replace(whole, weights=(odd, *some[1:])), InvalidItem, "has shape .* the model's is")
    refused(replace(whole, weights=some[1:]), InvalidItem, r"is missing \(1 in all\)")
    refused(
        replace(whole, weights=(*some, Weight("no.such.weight", (1,)))),
        InvalidItem,
        "'no.such.weight' is no weight of this model",
    )
    refused(replace(whole, weights=(*some, some[0])), InvalidItem, "comes twice")
    refused(replace(whole, dtype="F16"), InvalidItem, "bytes or more, the header's shapes need")
    short = dict(list(state.items())[:-1])
    refused(whole, InvalidItem, "bytes in all, the header's shapes need", tensors=short)
    refused(whole, PreconditionFailed, "is older than a@5", version=4)
    after = {r.prompt_index: r.response_ids.tolist() for r in client.sample(held)}
    assert after == before
    client.update_weights(whole, buffers(state), Policy("a", 6))
    client.update_weights(whole, buffers(state), Policy("b", 0))
    assert client.describe().policy == Policy("b", 0)


def test_the_order_of_weight_messages_is_checked(rollout_server, good, client, state):
    def code(*messages: pb.WeightMessage) -> grpc.StatusCode:
        with grpc.insecure_channel(rollout_server) as channel:
            try:
                RolloutsStub(channel).UpdateWeights(iter(messages), timeout=60)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    from protos.rollout_codec import weights_header_to_proto

    header = pb.WeightMessage(header=weights_header_to_proto(as_set(state), Policy("c", 0)))
    nameless = pb.WeightMessage(header=header.header)
    nameless.header.ClearField("policy")
    strange = pb.WeightMessage(header=header.header)
    strange.header.dtype = "I8"
    assert code() == grpc.StatusCode.INVALID_ARGUMENT
    assert code(pb.WeightMessage(chunk=b"1234")) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(header, header) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(nameless) == grpc.StatusCode.INVALID_ARGUMENT
    assert code(strange) == grpc.StatusCode.INVALID_ARGUMENT
    large = pb.WeightMessage(chunk=bytes(client.info.limits.max_chunk_bytes + 1))
    assert code(header, large) == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(list(client.sample(good))) == 4


def test_bfloat16_weights_are_taken_too(client, good, state):
    import torch

    halves = {name: tensor.bfloat16() for name, tensor in state.items()}
    raw = (t.flatten().view(torch.uint8).numpy().data for t in halves.values())
    client.update_weights(as_set(state, "BF16"), raw, Policy("h", 0))
    half = {r.prompt_index: r.logprobs for r in client.sample(replace(good, greedy=True))}
    back = {name: tensor.float() for name, tensor in halves.items()}
    client.update_weights(as_set(back), buffers(back), Policy("h", 1))
    full = {r.prompt_index: r.logprobs for r in client.sample(replace(good, greedy=True))}
    assert all(np.array_equal(half[i], full[i]) for i in half)


def test_the_client_refuses_answers_of_another_policy(client, good, monkeypatch):
    """A server that mixed policies up would be noticed."""
    from protos import rollout_client

    real = rollout_client.sampled_response_from_proto
    monkeypatch.setattr(
        rollout_client,
        "sampled_response_from_proto",
        lambda message: replace(real(message), policy=Policy("z", 1)),
    )
    policy = client.describe().policy
    with pytest.raises(EchoMismatch, match=r"answered with policy z@1"):
        list(client.sample(replace(good, policy=policy)))


def test_another_tokenizer_is_refused_on_connecting(rollout_server):
    with pytest.raises(PreconditionFailed, match="another tokenizer"):
        RolloutClient(rollout_server, tokenizer_fingerprint="0" * 64)


def test_a_prompt_alone(client):
    prompt = RolloutPrompt(ids(7, 8, 9), responses=2, seed=1)
    request = RolloutRequest(prompts=(prompt,), max_new_tokens=3)
    responses = list(client.sample(request))
    assert sorted(r.response_index for r in responses) == [0, 1]
    assert all(len(r.response_ids) == 3 and not r.finished for r in responses)
