r"""Greedy answers to questions of a file, and the share whose \boxed{} is right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from student_trainer.answer import is_correct
from student_trainer.config import TrainConfig
from student_trainer.data import DataSet
from student_trainer.prompting import PromptBuilder, StudentPrompt
from student_trainer.sampling import Sampler
from student_trainer.world import World


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


class Evaluator:
    """Asks the student as it was published last; each rank has its share of the questions."""

    def __init__(
        self, sampler: Sampler, builder: PromptBuilder, world: World, batch_size: int
    ) -> None:
        self._sampler = sampler
        self._builder = builder
        self._world = world
        self._batch_size = batch_size

    def answers(self, rows: DataSet, limit: int | None) -> Evaluation:
        """Of this rank's share of the first `limit` rows. Raises ValueError that names a row that can't be read."""
        count = min(limit or len(rows), len(rows))
        mine = range(self._world.rank, count, self._world.size)
        prompts = (self._prompt(rows, index) for index in mine)
        return evaluate(self._sampler, prompts, self._batch_size)

    def accuracy(self, rows: DataSet, limit: int | None, publish: Callable[[], None]) -> float:
        """Over all ranks, of the student as `publish` hands it to the sampler.

        What one of them failed of is raised on all.
        """
        failure: Exception | None = None
        found = Evaluation(0.0, [])
        try:
            publish()
            found = self.answers(rows, limit)
        except Exception as error:
            failure = error
        self._world.leave_together(failure)
        right, questions = self._world.sums(
            [found.accuracy * len(found.responses), len(found.responses)]
        )
        return right / questions

    def _prompt(self, rows: DataSet, index: int) -> StudentPrompt:
        try:
            return self._builder.build(rows[index], 0)
        except ValueError as error:
            raise ValueError(f"{rows.path} row {index}: {error}") from error


def validation_rows(config: TrainConfig) -> DataSet | None:
    """Those that a run is evaluated on; None where it never is."""
    if not config.eval.every:
        return None
    if config.data.validation is None:
        raise ValueError(
            "eval.every is set but data.validation is not; name a file of validation rows"
        )
    return DataSet(config.data.validation, config.data)
