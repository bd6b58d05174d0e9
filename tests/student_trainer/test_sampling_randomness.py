"""Draws are the sampler's own: what else in the process draws, or sets torch's generator back, changes none of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from student_trainer.config import TrainConfig
from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from student_trainer.rollout import Rollout
from student_trainer.sampler import TransformersSampler
from student_trainer.sampler_config import TransformersSamplerConfig
from student_trainer.student import Student
from student_trainer.student_config import StudentConfig
from student_trainer.train import Trainer, train
from tests.pictures import noise

SIZES = ((32, 32), (64, 40), (120, 33))


def length(response: str, expected: str) -> float:
    """A reward: longer answers are better."""
    return float(len(response))


def set_back(*_: object) -> None:
    """What the learner may do at any time."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def student(qwen: Path) -> Student:
    return Student(str(qwen), "cpu", "float32", StudentConfig(activation_checkpointing=True))


@pytest.fixture(scope="module")
def prompts(student: Student):
    builder = PromptBuilder(student.processor, DataConfig())
    samples = [Sample((noise(i, size),), "what is it?", "") for i, size in enumerate(SIZES)]
    return [builder.build(sample, 1) for sample in samples]


def sample(student: Student, prompts, seed: int, apart: bool = False) -> dict[int, Rollout]:
    """Two batches of responses."""
    config = TransformersSamplerConfig(max_new_tokens=12, batch_size=4)
    sampler = TransformersSampler(student, config, student.vocab_size, apart)
    got: dict[int, Rollout] = {}
    sampler.sample(prompts * 2, 0, sampler.generator(seed), got.__setitem__)
    return got


def ids(rollouts: dict[int, Rollout]) -> list[list[int]]:
    return [rollouts[i].response_ids.tolist() for i in range(len(rollouts))]


@pytest.mark.parametrize("apart", [False, True], ids=["itself", "copy"])
def test_answers_depend_on_their_own_seed_alone(apart, student, prompts):
    torch.manual_seed(1)
    first = ids(sample(student, prompts, 3, apart))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert ids(sample(student, prompts, 3, apart)) == first
    assert torch.equal(torch.get_rng_state(), before), "nobody else's draws depend on sampling"
    assert ids(sample(student, prompts, 4, apart)) != first
    assert len({tuple(answer) for answer in first}) == len(first), "batches share a generator"


def test_answers_do_not_change_when_the_generator_of_the_process_is_set_back(student, prompts):
    expected = ids(sample(student, prompts, 3))
    hook = student.model.register_forward_hook(set_back)
    try:
        got = ids(sample(student, prompts, 3))
    finally:
        hook.remove()
    assert got == expected


def test_layers_that_run_again_leave_the_generator_of_the_process_alone(student, prompts):
    (layer, *_) = student.model.get_decoder().layers
    seen: list[torch.Tensor] = []
    # A hook of the layer itself is not run again.
    hook = layer.mlp.register_forward_pre_hook(lambda *_: seen.append(torch.get_rng_state()))
    rollouts = sample(student, prompts, 3)
    try:
        states = student.read(prompts[:1], [rollouts[0]], "mm", lambda hidden, head: hidden)
        seen.clear()
        torch.rand(1)
        states.sum().backward()
    finally:
        hook.remove()
        student.model.zero_grad(set_to_none=True)
    (again,) = seen
    assert torch.equal(again, torch.get_rng_state())


@pytest.fixture(scope="module")
def settings(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for i, size in enumerate(SIZES):
        (folder / f"{i}.png").write_bytes(noise(i, size, "PNG"))
        lines.append({"image": f"{i}.png", "question": f"what is {i}?", "answer": str(i)})
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return TrainConfig.model_validate(
        {
            "model": str(qwen),
            "run_dir": folder / "run",
            "steps": 4,
            "max_lag": 1,
            "device": "cpu",
            "student": {"activation_checkpointing": True},
            "data": {"train": str(rows)},
            "sampler": {"max_new_tokens": 12, "batch_size": 4},
            "teacher": {"address": "127.0.0.1:1", "k": 4},
            "objective": {"name": "grpo"},
            "grpo": {"rewards": [{"name": f"{__name__}:length"}]},
            "optimizer": {"lr": 1e-3},
            "batch": {"prompts": 3, "responses_per_prompt": 2, "microbatch": 2},
            "trackers": [],
        }
    )


def trained(settings: TrainConfig, run_dir: Path, disturbed: bool = False) -> dict:
    own = settings.model_copy(update={"run_dir": run_dir})
    if not disturbed:
        return load_file(train(own) / "model.safetensors")
    with Trainer(own) as trainer:
        assert isinstance(trainer.sampler, TransformersSampler)
        assert trainer.sampler._copy is not None
        trainer.sampler._copy.register_forward_hook(set_back)
        return load_file(trainer.run() / "model.safetensors")


def test_at_lag_one_runs_are_the_same_to_the_last_bit(settings, tmp_path):
    first = trained(settings, tmp_path / "first")
    second = trained(settings, tmp_path / "second")
    disturbed = trained(settings, tmp_path / "disturbed", disturbed=True)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], disturbed[name]) for name in first)
