r"""Share of greedy answers whose \boxed{} is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from student_trainer.answer import is_correct
from student_trainer.prompting import StudentPrompt
from student_trainer.sampler import TransformersSampler


@dataclass(frozen=True)
class Evaluation:
    """Greedy answers to a set of questions."""

    accuracy: float
    """Share of 1."""
    responses: list[str]


def evaluate(
    sampler: TransformersSampler, prompts: Sequence[StudentPrompt], batch_size: int
) -> Evaluation:
    """Answer every prompt greedily and compare."""
    tokenizer = sampler.student.processor.tokenizer
    answers = sampler.answer(prompts, batch_size)
    responses = [tokenizer.decode(ids.tolist(), skip_special_tokens=True) for ids in answers]
    right = [is_correct(r, p.answer) for r, p in zip(responses, prompts, strict=True)]
    return Evaluation(sum(right) / len(right), responses)
