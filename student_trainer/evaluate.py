r"""Greedy answers to questions of a file, and the share whose \boxed{} is right."""

from __future__ import annotations

from collections.abc import Callable
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


class Evaluator:
    """Asks the student as it is; each rank has its share of the questions."""

    def __init__(
        self,
        sampler: Sampler,
        publish: Callable[[], None],
        builder: PromptBuilder,
        world: World,
        batch_size: int,
    ) -> None:
        """`publish` hands the student's weights to the sampler."""
        self._sampler = sampler
        self._publish = publish
        self._builder = builder
        self._world = world
        self._batch_size = batch_size

    def answers(self, rows: DataSet, limit: int | None) -> Evaluation:
        """Of this rank's share of the first `limit` rows. Raises ValueError that names a row that can't be read."""
        self._publish()
        count = min(limit or len(rows), len(rows))
        mine = range(self._world.rank, count, self._world.size)
        tokenizer = self._sampler.student.processor.tokenizer
        responses: list[str] = []
        right = 0
        for first in range(0, len(mine), self._batch_size):  # no more prompts are held at a time
            batch = [self._prompt(rows, index) for index in mine[first : first + self._batch_size]]
            answers = self._sampler.answer(batch, self._batch_size)
            for prompt, ids in zip(batch, answers, strict=True):
                responses.append(tokenizer.decode(ids.tolist(), skip_special_tokens=True))
                right += is_correct(responses[-1], prompt.answer)
        return Evaluation(right / max(1, len(responses)), responses)

    def accuracy(self, rows: DataSet, limit: int | None) -> float:
        """Over all ranks; what one of them failed of is raised on all."""
        failure: Exception | None = None
        found = Evaluation(0.0, [])
        try:
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
