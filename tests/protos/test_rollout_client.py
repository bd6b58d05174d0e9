"""The client against a server that says what it is told to."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from protos.errors import EchoMismatch, LimitExceeded, PreconditionFailed, Unavailable
from protos.policy import Policy
from protos.rollout_client import RolloutClient
from protos.rollout_codec import rollout_info_to_proto, sampled_response_to_proto
from protos.rollout_info import RolloutInfo, RolloutLimits
from protos.rollout_request import RolloutPrompt, RolloutRequest
from protos.sampled_response import SampledResponse
from protos.v1 import rollout_pb2 as pb
from protos.v1.rollout_pb2_grpc import RolloutsServicer, add_RolloutsServicer_to_server
from protos.weights import Weight, WeightSet

LIMITS = RolloutLimits(max_request_bytes=1000, max_chunk_bytes=10, max_responses=4)
INFO = RolloutInfo("m", "tokens", "pixels", 10, 100, "F32", None, LIMITS)


class Scripted(RolloutsServicer):
    """Answers every prompt, in reverse order, with its number of images; `policy` and `left_out` are its faults."""

    def __init__(self) -> None:
        self.policy: Policy | None = Policy("a", 1)
        self.left_out = 0
        self.requests: list[pb.SampleRequest] = []
        self.weights: list[pb.WeightMessage] = []

    def Describe(self, request, context):
        return rollout_info_to_proto(INFO)

    def Sample(self, request, context):
        self.requests.append(request)
        for index in reversed(range(self.left_out, len(request.prompts))):
            for response in range(request.prompts[index].responses):
                ids = np.array([len(request.prompts[index].images)], dtype=np.int32)
                logprobs = np.zeros(1, dtype=np.float32)
                answer = SampledResponse(index, response, self.policy, ids, logprobs, None, True)
                yield sampled_response_to_proto(answer)

    def UpdateWeights(self, request_iterator, context):
        self.weights = list(request_iterator)
        if len(self.weights) < 2:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no chunks")
        return pb.UpdateReply(policy=self.weights[0].header.policy)


@pytest.fixture
def scripted():
    return Scripted()


@pytest.fixture
def address(scripted):
    server = grpc.server(ThreadPoolExecutor(4))
    add_RolloutsServicer_to_server(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def client(address):
    with RolloutClient(address) as client:
        yield client


def request(*prompts: RolloutPrompt, **settings) -> RolloutRequest:
    return RolloutRequest(prompts, max_new_tokens=1, policy=Policy("a", 1), **settings)


def prompt(images: int = 0, size: int = 1, responses: int = 1) -> RolloutPrompt:
    return RolloutPrompt(np.ones(2, dtype=np.int32), (b"x" * size,) * images, responses)


def test_answers_belong_to_their_prompts_however_the_request_is_cut(client, scripted):
    prompts = [prompt(images, size=100) for images in (0, 1, 2, 3, 4, 5, 6, 0, 1)]
    got = list(client.sample(request(*prompts)))
    assert sorted((r.prompt_index, int(r.response_ids[0])) for r in got) == [
        (i, len(p.images)) for i, p in enumerate(prompts)
    ]
    assert len(scripted.requests) > 2
    assert all(r.ByteSize() <= LIMITS.max_request_bytes for r in scripted.requests)


def test_a_request_is_cut_where_it_would_have_too_many_responses(client, scripted):
    got = list(client.sample(request(*[prompt(responses=2)] * 5)))
    assert len(got) == 10
    assert sorted(len(r.prompts) for r in scripted.requests) == [1, 2, 2]


def test_a_prompt_that_never_fits_is_refused_before_it_is_sent(client, scripted):
    with pytest.raises(LimitExceeded, match=r"prompt 0 has \d+ bytes, the server takes 1000"):
        list(client.sample(request(prompt(1, size=1000))))
    assert scripted.requests == []


def test_an_answer_of_another_policy_is_refused(client, scripted):
    scripted.policy = Policy("b", 1)
    with pytest.raises(EchoMismatch, match=r"answered with policy b@1, a@1 was asked for"):
        list(client.sample(request(prompt())))


def test_a_missing_answer_is_noticed(client, scripted):
    scripted.left_out = 1
    with pytest.raises(EchoMismatch, match="left 1 responses out"):
        list(client.sample(request(prompt(), prompt())))


def test_weights_come_in_pieces(client, scripted):
    weights = WeightSet((Weight("a", (3,)), Weight("b", (2, 2))), "F32")
    values = [np.arange(3, dtype=np.float32), np.ones((2, 2), dtype=np.float32)]
    client.update_weights(weights, (v.data for v in values), Policy("a", 2))
    assert scripted.weights[0].header.dtype == "F32"
    chunks = [message.chunk for message in scripted.weights[1:]]
    assert [len(chunk) for chunk in chunks] == [10, 10, 8]
    assert b"".join(chunks) == b"".join(value.tobytes() for value in values)


def test_errors_come_as_the_table_has_them(client):
    with pytest.raises(ValueError, match="no chunks"):
        client.update_weights(WeightSet((), "F32"), (), Policy("a", 2))


def test_another_tokenizer_is_refused_and_another_processor_warned_of(address, caplog):
    with pytest.raises(PreconditionFailed, match="another tokenizer than the student"):
        RolloutClient(address, tokenizer_fingerprint="other")
    RolloutClient(address, tokenizer_fingerprint="tokens", processor_fingerprint="px").close()
    assert "preprocesses images otherwise" in caplog.text


def test_nobody_there():
    with pytest.raises(Unavailable, match=r"no rollout server answers at 127.0.0.1:1 within 0.2 s"):
        RolloutClient("127.0.0.1:1", connect_timeout_s=0.2)
