"""Sampling and scoring of what a step, or a few, train on: an answer goes to the teacher as soon as it is finished."""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Generator

from protos.client import PutPrompt
from protos.errors import DeadlineExceeded, InternalFault, InvalidItem, LimitExceeded
from protos.item import ScoreItem
from protos.scores import Scores
from student_trainer.config import TrainConfig
from student_trainer.data import DataSet
from student_trainer.prompting import PromptBuilder, PromptTooLong, StudentPrompt
from student_trainer.rollout import Rollout
from student_trainer.sampling import Sampler
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.stage_clock import StageClock
from student_trainer.teachers import Teachers
from student_trainer.world import World

log = logging.getLogger(__name__)

DROPPABLE = (InvalidItem, DeadlineExceeded, LimitExceeded, InternalFault)
"""Errors that cost one response; any other ends the run."""


@dataclass(eq=False)
class SampledBatch:
    """Answers of this rank, on their way to the teacher or back."""

    index: int
    prompts: list[StudentPrompt] = field(default_factory=list)
    """One entry a response."""
    steps: list[int] = field(default_factory=list)
    """Which of the steps that share this batch a response is for."""
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    scores: dict[int, Future[Scores]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)
    """Responses that nothing came of, by reason."""

    @property
    def waiting(self) -> int:
        """Responses that are not scored yet."""
        return sum(not future.done() for future in self.scores.values())


class RolloutStage:
    """Makes batches of scored answers; `sample` may run on another thread than the rest."""

    def __init__(
        self,
        config: TrainConfig,
        data: DataSet,
        builder: PromptBuilder,
        sampler: Sampler,
        teachers: Teachers | None,
        vocab_size: int,
        world: World,
        clock: StageClock,
    ) -> None:
        self._config = config
        self._data = data
        self._builder = builder
        self._sampler = sampler
        self._teachers = teachers
        self._vocab_size = vocab_size
        self._world = world
        self._clock = clock
        self._policy_step: int | None = None

    def publish(self, step: int) -> None:
        """Sample from now on from the weights after `step` optimizer steps."""
        if step == self._policy_step:
            return
        with self._clock.time("weights", "waiting"):
            self._sampler.update(step)
        self._policy_step = step

    def sample(self, index: int) -> SampledBatch:
        """Answers to this rank's questions of the batch, each sent to its teacher."""
        with self._clock.time("sample", "sampler", batch=index):
            # Each batch's randomness is its own: a resumed run needs no generator state.
            seed = hash((self._config.seed, index, self._world.rank)) % 2**63
            return self._sample(index, self._sampler.generator(seed))

    def _sample(self, index: int, generator: Generator) -> SampledBatch:
        sizes, sampled = self._config.batch, SampledBatch(index)
        rows = self._data.indices(index, sizes.prompts, self._config.seed)
        per_step = sizes.prompts // sizes.steps_per_rollout
        mine = list(enumerate(rows))[self._world.rank :: self._world.size]
        # The teacher holds prompts until their last response is scored: those of a round or two, not of the whole step.
        per_round = max(1, self._config.sampler.batch_size // sizes.responses_per_prompt)
        for first in range(0, len(mine), per_round):
            places = mine[first : first + per_round]
            self._round([(place // per_step, row) for place, row in places], sampled, generator)
        return sampled

    def _round(
        self, places: Sequence[tuple[int, int]], sampled: SampledBatch, generator: Generator
    ) -> None:
        wanted, offset = self._config.batch.responses_per_prompt, len(sampled.prompts)
        built = [
            (step, prompt)
            for step, row in places
            if (prompt := self._build(row, sampled.lost)) is not None
        ]
        puts = [self._put(prompt) for _, prompt in built]
        asked = [prompt for _, prompt in built for _ in range(wanted)]
        sampled.prompts += asked
        sampled.steps += [step for step, _ in built for _ in range(wanted)]

        def send(index: int, rollout: Rollout) -> None:
            sampled.rollouts[offset + index] = rollout
            put = puts[index // wanted]
            if put is not None and self._teachers is not None:
                teacher = self._teachers[asked[index].teacher]
                future = teacher.submit_score(put, self._item(rollout))
                future.add_done_callback(functools.partial(self._show, time.monotonic()))
                sampled.scores[offset + index] = future

        assert self._policy_step is not None, "nobody published weights to sample from"
        self._sampler.sample(asked, self._policy_step, generator, send)
        for i, ((_, prompt), put) in enumerate(zip(built, puts, strict=True)):
            if put is not None:
                first = offset + i * wanted
                futures = [sampled.scores[j] for j in range(first, first + wanted)]
                self._drop_when_scored(prompt, put, futures)

    def _build(self, row: int, lost: Counter[str]) -> StudentPrompt | None:
        """The row's prompt; where it can't be used, all its responses are counted as lost."""
        wanted = self._config.batch.responses_per_prompt
        try:
            return self._builder.build(self._data[row], wanted)
        except ValueError as error:
            lost["long prompt" if isinstance(error, PromptTooLong) else "unreadable row"] += wanted
            log.warning("dropped %s row %d: %s", self._config.data.train, row, error)
            return None

    def _put(self, prompt: StudentPrompt) -> Future[PutPrompt] | None:
        if self._teachers is None:
            return None
        return self._teachers[prompt.teacher].submit_prompt(prompt.wire)

    def _item(self, rollout: Rollout) -> ScoreItem:
        return ScoreItem(
            response_ids=rollout.response_ids,
            k=self._config.teacher.k,
            candidates=rollout.candidates,
            dtype=self._config.teacher.dtype,
            vocab_size=self._vocab_size,
        )

    def _show(self, started_s: float, future: Future[Scores]) -> None:
        self._clock.overlapping("score", "teacher", started_s)

    def _drop_when_scored(
        self, prompt: StudentPrompt, put: Future[PutPrompt], scores: Sequence[Future[Scores]]
    ) -> None:
        """Let the teacher forget a prompt when the last of its responses is answered."""
        assert self._teachers is not None
        teacher, waiting = self._teachers[prompt.teacher], set(range(len(scores)))

        def answered(_: Future[Scores], i: int) -> None:
            waiting.discard(i)
            if not waiting and put.exception() is None:
                teacher.submit_drop(put.result())

        for i, future in enumerate(scores):
            future.add_done_callback(functools.partial(answered, i=i))

    def collect(self, sampled: SampledBatch, step: int) -> list[list[ScoredRollout]]:
        """Wait for the scores; the responses of each step that shares the batch, in the batch's order.

        Whatever came first: order does not depend on the teacher. A response without scores leaves the batch, and so
        does one that is too old for `step`, the first that trains on it; both are counted.
        """
        shared = self._config.batch.steps_per_rollout
        oldest = step - self._config.max_lag * shared
        parts: list[list[ScoredRollout]] = [[] for _ in range(shared)]
        with self._clock.time("teacher_wait", "waiting", batch=sampled.index):
            for i, prompt in enumerate(sampled.prompts):
                rollout = sampled.rollouts[i]
                if rollout.policy_step < oldest:
                    sampled.lost["stale"] += 1
                    continue
                try:
                    scores = sampled.scores[i].result() if self._teachers else None
                except DROPPABLE as error:
                    sampled.lost[type(error).__name__] += 1
                    log.warning("dropped batch=%d response=%d: %s", sampled.index, i, error)
                else:
                    parts[sampled.steps[i]].append(ScoredRollout(prompt, rollout, scores))
        return parts
