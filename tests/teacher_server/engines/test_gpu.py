"""The transformers engine on a CUDA device: the CPU's float32 numbers, and bfloat16 scored in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from protos.errors import TeacherError
from protos.item import ScoreItem
from protos.scores import Scores
from protos.teacher_info import Limits
from teacher_server.config import TransformersEngineConfig
from teacher_server.engines.engine import Job
from teacher_server.engines.transformers_engine import TransformersEngine
from teacher_server.images import decode_images
from tests.pictures import noise
from tests.reference import Reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CASES = [
    ("what stands in the picture?", (noise(1, (64, 40)),), 20),
    ("what stands in the picture?", (noise(1, (64, 40)),), 7),
    ("left and right?", (noise(2), noise(3, (90, 33))), 12),
    ("describe the sky", (), 5),
]


def score(model: Path, reference: Reference, **settings: object) -> list[Scores]:
    config = TransformersEngineConfig.model_validate({"device": "cuda"} | settings)
    engine = TransformersEngine(str(model), config, teacher_id="t", limits=Limits())
    jobs = []
    for n, (question, images, length) in enumerate(CASES):
        prompt = reference.prompt(question, images)
        prepared = engine.prepare(prompt, decode_images(images, Limits()))
        jobs.append(Job(prepared, ScoreItem(response(n, length), k=6)))
    answers = engine.score_batch(jobs)
    scores = [a for a in answers if not isinstance(a, TeacherError)]
    assert len(scores) == len(answers)
    return scores


def response(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 300, length).astype(np.int32)


@pytest.mark.parametrize("settings", [{}, {"share_prefix": False}, {"deterministic": True}])
def test_float32_equals_the_cpu(settings, qwen, qwen_reference):
    for n, scores in enumerate(score(qwen, qwen_reference, dtype="float32", **settings)):
        question, images, length = CASES[n]
        qwen_reference.check(scores, question, images, response(n, length), tolerance=1e-4)


def test_deterministic_means_the_same_bits(qwen, qwen_reference):
    first, second = (score(qwen, qwen_reference, deterministic=True) for _ in range(2))
    assert all(a.equal_to(b) for a, b in zip(first, second, strict=True))


def test_bfloat16_logits_are_summed_in_float32():
    from teacher_server.engines.output_head import OutputHead

    hidden = torch.randn(64, 2048, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(5000, 2048, device="cuda", dtype=torch.bfloat16) / 32
    head = OutputHead.__new__(OutputHead)
    head._weight, head._bias, head._soft_cap, head._mixed = weight, None, None, True
    exact = functional.linear(hidden.double(), weight.double())
    float32_error = (head(hidden).double() - exact).abs().max()
    rounded = functional.linear(hidden, weight)
    assert float32_error < 1e-4
    assert (rounded.double() - exact).abs().max() > 100 * float32_error


def test_bfloat16_is_close_and_its_vds_is_not_noise(qwen, qwen_reference):
    exact = score(qwen, qwen_reference, dtype="float32")
    half = score(qwen, qwen_reference, dtype="bfloat16")
    for a, b in zip(exact, half, strict=True):
        assert np.abs(a.sampled_mm_logprobs - b.sampled_mm_logprobs).max() < 1.0
        if a.vds.max() > 0:
            assert np.corrcoef(a.vds, b.vds)[0, 1] > 0.9
    assert half[3].vds.tolist() == [0.0] * 5
