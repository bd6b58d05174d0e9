r"""Share of greedy answers whose \boxed{} is right."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from student_trainer.answer import is_correct
from student_trainer.prompting import StudentPrompt
from student_trainer.sampling import Sampler


@dataclass(frozen=True)
class Evaluation:
    """Greedy answers to a set of questions."""

    accuracy: float
    """Share of 1; 0 of no questions."""
    responses: list[str]


def evaluate(sampler: Sampler, prompts: Iterable[StudentPrompt], batch_size: int) -> Evaluation:
    """Answer every prompt greedily and compare; no more than a batch of prompts is held at a time."""
    tokenizer = sampler.student.processor.tokenizer
    waiting = iter(prompts)
    responses: list[str] = []
    right = 0
    while batch := list(itertools.islice(waiting, batch_size)):
        for prompt, ids in zip(batch, sampler.answer(batch, batch_size), strict=True):
            responses.append(tokenizer.decode(ids.tolist(), skip_special_tokens=True))
            right += is_correct(responses[-1], prompt.answer)
    return Evaluation(right / max(1, len(responses)), responses)
