"""The learner and the sampler on a CUDA device."""

import json
from pathlib import Path

import pytest
import torch

from student_trainer.config import TrainConfig
from student_trainer.learner import Learner
from student_trainer.prior import Prior
from student_trainer.student import Student
from student_trainer.train import Trainer, train
from student_trainer.world import World
from tests.loopback import serving
from tests.pictures import noise
from tests.tiny_models import make_qwen3_vl

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def settings(qwen: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "a.png").write_bytes(noise(1, (64, 40)))
    row = {"image": "a.png", "question": "what is it?", "answer": ""}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with serving(qwen) as address:
        yield TrainConfig.model_validate(
            {
                "model": str(make_qwen3_vl(folder / "student", seed=11)),
                "run_dir": folder / "run",
                "steps": 2,
                "data": {"train": str(folder / "rows.jsonl")},
                "sampler": {"max_new_tokens": 12, "candidates": 4},
                "teacher": {"address": address, "k": 6},
                "objective": {"name": "vgs-lp", "lambda": 1.0, "eta": 1.0},
                "batch": {"prompts": 8, "microbatch": 4},
            }
        )


def test_the_gradient_is_the_cpus(settings):
    with Trainer(settings.model_copy(update={"device": "cpu"})) as trainer:
        torch.manual_seed(0)
        batch, _ = trainer.next_batch()
        vocab_size = trainer.student.vocab_size
    found = {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")):
        student = Student(settings.model, device, precision)
        learner = Learner(
            student,
            settings,
            vocab_size,
            World(torch.device(device)),
            Prior(settings.objective, student),
        )
        losses = learner.accumulate(batch, 0)
        gradient = torch.cat([p.grad.flatten().cpu() for p in student.parameters])
        found[device, precision] = losses["loss/total"], gradient
    exact, gradient = found["cpu", "float32"]
    loss, other = found["cuda", "float32"]
    assert loss == pytest.approx(exact, rel=1e-4)
    assert torch.cosine_similarity(gradient, other, dim=0) > 0.9999
    loss, other = found["cuda", "bfloat16"]
    assert loss == pytest.approx(exact, rel=0.1)
    assert torch.cosine_similarity(gradient, other, dim=0) > 0.95


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_steps(precision, settings, tmp_path):
    changes = {"device": "cuda", "precision": precision, "run_dir": tmp_path}
    assert train(settings.model_copy(update=changes)).name == "step-000002"
