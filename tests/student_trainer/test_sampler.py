"""Rollouts: what is recorded beside them, what may not be sampled, and when they are handed on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from student_trainer.data import Sample
from student_trainer.data_config import DataConfig
from student_trainer.prompting import PromptBuilder
from student_trainer.rollout import Rollout
from student_trainer.sampler import TransformersSampler
from student_trainer.sampler_config import TransformersSamplerConfig
from student_trainer.student import Student
from tests.pictures import noise


@pytest.fixture(scope="module")
def student(qwen: Path) -> Student:
    return Student(str(qwen), "cpu", "float32")


@pytest.fixture(scope="module")
def prompts(student: Student):
    builder = PromptBuilder(student.processor, DataConfig())
    sizes = [(32, 32), (64, 40), (120, 33)]
    samples = [Sample((noise(i, size),), "what is it?", "") for i, size in enumerate(sizes)]
    samples.append(Sample((), "no picture at all?", ""))
    return [builder.build(sample, 1) for sample in samples]


def sample(student: Student, prompts, **settings) -> tuple[dict[int, Rollout], list[int]]:
    config = TransformersSamplerConfig.model_validate({"max_new_tokens": 30} | settings)
    sampler = TransformersSampler(student, config, student.vocab_size)
    got: dict[int, Rollout] = {}
    order: list[int] = []

    def keep(index: int, rollout: Rollout) -> None:
        got[index] = rollout
        order.append(index)

    sampler.sample(prompts, 7, sampler.generator(3), keep)
    return got, order


def test_every_prompt_is_answered_once(student, prompts):
    got, order = sample(student, prompts * 3, batch_size=5)
    assert sorted(order) == list(range(12))
    eos = student.eos_ids[0]
    for rollout in got.values():
        ids = rollout.response_ids
        assert rollout.policy_step == 7
        assert eos not in ids[:-1]
        assert rollout.finished == (ids[-1] == eos)
        assert rollout.finished or len(ids) == 30


def test_a_response_is_handed_on_when_it_is_finished(student, prompts):
    got, order = sample(student, prompts * 8, max_new_tokens=60)
    lengths = [len(got[index].response_ids) for index in order]
    assert lengths == sorted(lengths), "shorter answers come first"
    assert len(set(lengths)) > 1


def test_candidates_are_the_students_own_top_ids(student, prompts):
    got, _ = sample(student, prompts, candidates=5)
    for index, rollout in got.items():
        logits = student.read([prompts[index]], [rollout], "mm", lambda h, head: head.logits(h))
        top = logits.topk(5).indices.detach().numpy()
        same = np.mean(
            [
                set(a) == set(b)
                for a, b in zip(top, rollout.candidates.ids.reshape(-1, 5), strict=True)
            ]
        )
        assert same > 0.95, "up to the last bit of a tie"


def test_vision_and_pad_ids_are_never_sampled(student, prompts):
    names = (
        "<|image_pad|>",
        "<|video_pad|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|endoftext|>",
    )
    barred = set(student.processor.tokenizer.convert_tokens_to_ids(names))
    assert barred <= student.vision_ids()
    assert not student.vision_ids() & set(student.eos_ids)
    head = student.model.get_output_embeddings().weight
    before = head.detach().clone()
    try:
        with torch.no_grad():  # a student that wants nothing but images
            head.zero_()
        got, _ = sample(student, prompts, max_new_tokens=200)
    finally:
        with torch.no_grad():
            head.copy_(before)
    assert not barred & {int(i) for rollout in got.values() for i in rollout.response_ids}


def test_ids_that_the_teacher_lacks_are_never_sampled(student, prompts):
    sampler = TransformersSampler(
        student, TransformersSamplerConfig(max_new_tokens=40, candidates=6), 200
    )
    got: dict[int, Rollout] = {}
    sampler.sample(prompts, 0, sampler.generator(0), got.__setitem__)
    assert max(int(rollout.response_ids.max()) for rollout in got.values()) < 200
    assert max(int(rollout.candidates.ids.max()) for rollout in got.values()) < 200


def test_padding_on_the_left_does_not_change_an_answer(student, prompts):
    sampler = TransformersSampler(
        student, TransformersSamplerConfig(max_new_tokens=12), student.vocab_size
    )
    together = sampler.answer(prompts, 8)
    alone = [sampler.answer([prompt], 1)[0] for prompt in prompts]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)
