"""Adapters by peft: what is trained of them, what is saved, and going on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from student_trainer.config import TrainConfig
from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.lora import FILE
from student_trainer.prompting import PromptBuilder
from student_trainer.rollout import Rollout
from student_trainer.sampler import TransformersSampler
from student_trainer.student import Student
from student_trainer.student_config import LoraConfig, StudentConfig
from student_trainer.train import Trainer, train
from tests.loopback import serving
from tests.pictures import noise
from tests.tiny_models import make_qwen3_vl

LORA = StudentConfig(lora=LoraConfig(rank=4, alpha=8.0))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("student"), seed=11, tied=True)


@pytest.fixture(scope="module")
def settings(model: Path, qwen: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("rows")
    (folder / "a.png").write_bytes(noise(1, (64, 40)))
    row = {"image": "a.png", "question": "what is it?", "answer": ""}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with serving(qwen, engine={"deterministic": True}) as address:
        yield TrainConfig.model_validate(
            {
                "model": str(model),
                "run_dir": folder / "run",
                "steps": 2,
                "device": "cpu",
                "student": LORA,
                "data": {"train": str(folder / "rows.jsonl")},
                "sampler": {"max_new_tokens": 6, "candidates": 4},
                "teacher": {"address": address, "k": 6},
                "objective": {"name": "vgs-lp", "lambda": 1.0},
                "optimizer": {"lr": 1e-2},
                "batch": {"prompts": 4, "microbatch": 4},
            }
        )


def run(settings: TrainConfig, folder: Path, **changes: object) -> Path:
    return train(settings.model_copy(update={"run_dir": folder, **changes}))


def logits(student: Student) -> torch.Tensor:
    builder = PromptBuilder(student.processor, DataConfig())
    prompt = builder.build(Sample((noise(5, (50, 70)),), "what is it?", ""), 0)
    rollout = Rollout(np.arange(20, 60, 5, dtype=np.int32), None, True, 0)
    with torch.no_grad():
        return student.read([prompt], [rollout], "mm", lambda hidden, head: head.logits(hidden))


def test_a_fresh_adapter_changes_nothing_and_stands_on_all_but_the_embeddings(model):
    plain, adapted = (Student(str(model), "cpu", "float32", c) for c in (StudentConfig(), LORA))
    assert torch.equal(logits(plain), logits(adapted))
    names = {n for n, p in adapted.model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in names)
    assert any("visual.blocks" in name for name in names)
    assert any("visual.merger" in name for name in names)
    assert not any("embed_tokens" in name or "lm_head" in name for name in names)
    again = Student(str(model), "cpu", "float32", LORA)
    pairs = zip(adapted.parameters, again.parameters, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the same on all ranks"
    got, expected = adapted.checkpoint_weights(), plain.checkpoint_weights()
    assert list(got) == list(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_training_moves_adapters_and_saves_an_ordinary_student(settings, model, tmp_path):
    with Trainer(settings.model_copy(update={"run_dir": tmp_path})) as trainer:
        student = trainer.student
        before = {n: p.detach().clone() for n, p in student.model.named_parameters()}
        last = trainer.run()
    moved = {n for n, p in student.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if ".lora_" in n}
    alone = Student(str(last), "cpu", "float32")
    torch.testing.assert_close(logits(alone), logits(student), atol=1e-5, rtol=0)
    assert (logits(student) - logits(Student(str(model), "cpu", "float32"))).abs().max() > 0.01
    files, sent = load_file(last / "model.safetensors"), student.checkpoint_weights()
    assert files.keys() == sent.keys() == load_file(model / "model.safetensors").keys()
    assert all(torch.equal(files[name], sent[name]) for name in files)


def test_a_resumed_run_is_the_same_to_the_last_bit(settings, tmp_path):
    straight = run(settings, tmp_path / "straight", steps=4)
    run(settings, tmp_path / "parted", steps=2)
    resumed = run(settings, tmp_path / "parted", steps=4, resume=True)
    for name in (FILE, "model.safetensors"):
        expected, got = load_file(straight / name), load_file(resumed / name)
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[n], got[n]) for n in expected)


def test_a_copy_samples_with_the_newest_adapters(settings, tmp_path):
    changed = {"run_dir": tmp_path, "max_lag": 1, "steps": 3}
    with Trainer(settings.model_copy(update=changed)) as trainer:
        trainer.run()
        assert isinstance(trainer.sampler, TransformersSampler)
        trainer.sampler.update(trainer.step)
        copy = trainer.sampler._copy
        assert copy is not None
        pairs = zip(copy.parameters(), trainer.student.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (("q_proj", "lm_head"), "lm_head, which gives the logits"),
        (("embed_tokens",), "embed_tokens, which is not linear"),
        (("patch_embed.proj",), "patch_embed.proj, which is not linear"),
        (("no_such_layer",), "no_such_layer"),
    ],
)
def test_layers_that_cannot_have_one_are_refused(targets, reason, qwen):
    config = StudentConfig(lora=LoraConfig(target_modules=targets))
    with pytest.raises(ValueError, match=reason):
        Student(str(qwen), "cpu", "float32", config)


def test_another_set_of_layers_is_no_checkpoint_of_this_one(settings, model, tmp_path):
    last = run(settings, tmp_path, steps=1)
    config = StudentConfig(lora=LoraConfig(rank=4, target_modules=("q_proj",)))
    with pytest.raises(ValueError, match="adapters on other layers"):
        Student(str(model), "cpu", "float32", config, last)
