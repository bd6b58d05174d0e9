"""What runs beside Score: health, reflection, Describe."""

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from protos.sync_client import SyncTeacherClient
from teacher_server.serve import SERVICE
from tests.loopback import serving


def test_health_is_told_for_the_server_and_the_service(qwen_server: str):
    with grpc.insecure_channel(qwen_server) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            stub.Check(health_pb2.HealthCheckRequest(service="another"), timeout=5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reflection_lists_the_service(qwen_server: str):
    with grpc.insecure_channel(qwen_server) as channel:
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(names)


def test_describe_tells_who_the_teacher_is(qwen, qwen_reference):
    with (
        serving(qwen, teacher_id="mine", limits={"max_k": 7}) as address,
        SyncTeacherClient(address) as teacher,
    ):
        info = teacher.info
    model, tokenizer = qwen_reference.model, qwen_reference.processor.tokenizer
    assert info.teacher_id == "mine"
    assert info.model_id == qwen.name, "no path of the server's machine"
    assert info.tokenizer_fingerprint == qwen_reference.fingerprint
    assert info.vocab_size == model.get_input_embeddings().weight.shape[0] > len(tokenizer)
    assert info.context_length == 512
    assert info.special_ids.image_placeholder == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert info.special_ids.eos == (tokenizer.eos_token_id,)
    assert info.limits.max_k == 7
    assert {"topk", "candidates", "f16"} <= set(info.capabilities)
    assert {"torch", "transformers", "grpcio"} <= set(info.versions)


def test_a_port_in_use_is_refused(qwen, qwen_server):
    port = int(qwen_server.rsplit(":", 1)[1])
    with pytest.raises((OSError, RuntimeError)), serving(qwen, server={"port": port}):
        pass


def test_the_models_fingerprint_is_its_weights(qwen, tmp_path):
    from tests.tiny_models import make_qwen3_vl

    same = make_qwen3_vl(tmp_path / "same", seed=1)
    other = make_qwen3_vl(tmp_path / "other", seed=2)
    found = []
    for folder in (qwen, same, other):
        with serving(folder) as address, SyncTeacherClient(address) as teacher:
            found.append(teacher.info.model_fingerprint)
    assert found[0] == found[1] != found[2]
