from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder, StudentPrompt
from student_trainer.sampler import TransformersSampler
from student_trainer.sampler_config import TransformersSamplerConfig, VllmSamplerConfig
from student_trainer.student import Student
from student_trainer.vllm_sampler import VllmSampler
from tests.pictures import noise
from tests.rollout_server.loopback import serving_rollouts

LONG = "first, second, third; left and right, up and down, what colour is the sky above it? " * 2


@pytest.fixture(scope="session")
def rollout_server(qwen: Path) -> Iterator[str]:
    with serving_rollouts(qwen) as address:
        yield address


@pytest.fixture
def student(qwen: Path) -> Student:
    return Student(str(qwen), "cpu", "float32")


@pytest.fixture
def builder(student: Student) -> PromptBuilder:
    return PromptBuilder(student.processor, DataConfig())


@pytest.fixture
def prompts(builder: PromptBuilder, photographs: tuple[bytes, bytes]) -> list[StudentPrompt]:
    """Short and long, with photographs, two pictures, and none; the long ones fill whole blocks of the cache."""
    temple, flower = photographs
    samples = [
        Sample((temple,), "what is it?", ""),
        Sample((flower,), LONG, ""),
        Sample((noise(3, (40, 64)), temple), "which is the red flower?", ""),
        Sample((), "no picture at all?", ""),
    ]
    return [builder.build(sample, 1) for sample in samples]


@pytest.fixture
def sampler(rollout_server: str, student: Student, builder: PromptBuilder) -> Iterator[VllmSampler]:
    """Holds the student's weights as they are."""
    config = VllmSamplerConfig(address=rollout_server, max_new_tokens=16, candidates=5)
    sampler = VllmSampler(student, config, student.vocab_size, builder)
    sampler.update(0)
    yield sampler
    sampler.close()


def own_answers(student: Student, prompts: list[StudentPrompt]) -> list[list[int]]:
    """Greedy, by the student itself."""
    student.model.model.rope_deltas = None
    config = TransformersSamplerConfig(max_new_tokens=16)
    sampler = TransformersSampler(student, config, student.vocab_size)
    return [sampler.answer([prompt], 1)[0].tolist() for prompt in prompts]


def disturb(student: Student, part: str, seed: int, size: float = 0.05) -> None:
    """Change all matrices whose names hold `part`, as many optimizer steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if part in name:
                parameter += size * torch.randn(parameter.shape, generator=generator)
