"""`student-trainer train`: sample, have it scored as it comes, update. One step is one optimizer batch."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import torch
from tqdm import tqdm

from protos.client import PutPrompt
from protos.errors import (
    DeadlineExceeded,
    InternalFault,
    InvalidItem,
    LimitExceeded,
    TeacherError,
)
from protos.item import ScoreItem
from protos.replica_set import TeacherAway
from protos.scores import Scores
from student_trainer.checkpoint import checkpoints, restore, save_checkpoint
from student_trainer.config import TrainConfig
from student_trainer.data import DataSet
from student_trainer.errors import TeacherGone, TooManyDropped
from student_trainer.evaluate import Evaluation, evaluate
from student_trainer.learner import Learner, ScoredRollout
from student_trainer.metrics import MetricsLog
from student_trainer.prompting import PromptBuilder, StudentPrompt
from student_trainer.rollout import Rollout
from student_trainer.run_config import refuse_changes, write_config
from student_trainer.sampling import make_sampler
from student_trainer.student import Student
from student_trainer.teachers import Teachers

log = logging.getLogger(__name__)

BLIND_VDS = 1e-3
"""Mean VDS in nats below which the teacher's two contexts are as good as one."""
DROPPABLE = (InvalidItem, DeadlineExceeded, LimitExceeded, InternalFault)
"""Errors that cost one response; any other ends the run."""


def train(config: TrainConfig) -> Path:
    """Run to the last step; returns the last checkpoint. Raises TeacherError or TrainerError."""
    with Trainer(config) as trainer:
        return trainer.run()


class Trainer:
    """A run: student, teacher, data and learner, stepped in turn."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._folder = config.run_dir / "checkpoints"
        found = checkpoints(self._folder)
        if found and not config.resume:
            raise ValueError(
                f"{config.run_dir} holds a run already; say --resume to go on, or choose another --run-dir"
            )
        last = found[-1] if found else None
        if last:
            refuse_changes(config)
        self.data = DataSet(config.data.train, config.data)
        self.student = Student(str(last or config.model), config.device, config.precision)
        self.builder = PromptBuilder(self.student.processor, config.data)
        with contextlib.ExitStack() as opened:
            self.teachers = opened.enter_context(
                Teachers(
                    config.teacher,
                    tokenizer_fingerprint=self.builder.tokenizer_fingerprint,
                    processor_fingerprint=self.builder.processor_fingerprint,
                )
            )
            self._vocab_size = min(self.student.vocab_size, self.teachers.vocab_size)
            self.learner = Learner(
                self.student, config.objective, config.optimizer, config.batch, self._vocab_size
            )
            self.step = restore(last, self.learner) if last else 0
            self.sampler = make_sampler(
                config.sampler, self.student, self.builder, self._vocab_size
            )
            opened.callback(self.sampler.close)
            self.sampler.update(self.step)
            write_config(config, self.teachers.infos, self.builder.processor_fingerprint)
            self._log = MetricsLog(config.run_dir, self.step)
            opened.callback(self._log.close)
            self._opened = opened.pop_all()
        self._blind_steps = 0

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def run(self) -> Path:
        """All steps that are left, with evaluations and checkpoints on the way."""
        config = self._config
        bar = tqdm(total=config.steps, initial=self.step, unit="step", disable=None)
        saved = None
        while self.step < config.steps:
            metrics = self._step_or_leave()
            if config.eval.every and self.step % config.eval.every == 0:
                metrics["eval/accuracy"] = self.validate()
            self._log.write(self.step, metrics)
            self._warn_if_blind(metrics["vds/mean"])
            bar.set_postfix(loss=f"{metrics['loss/total']:.4f}", vds=f"{metrics['vds/mean']:.3f}")
            bar.update()
            if bar.disable and self.step % max(1, config.steps // 20) == 0:
                log.info("step=%d/%d loss=%.4f", self.step, config.steps, metrics["loss/total"])
            every = config.checkpoint.every
            if self.step == config.steps or (every and self.step % every == 0):
                saved = save_checkpoint(
                    self._folder, self.step, self.student, self.learner, config.checkpoint.keep
                )
        bar.close()
        return saved or checkpoints(self._folder)[-1]

    def _step_or_leave(self) -> dict[str, float]:
        """A step; where the teacher fails for good, a checkpoint of what was reached before it."""
        try:
            return self.train_step()
        except (TeacherError, TooManyDropped) as error:
            if self.step:
                keep = self._config.checkpoint.keep
                save_checkpoint(self._folder, self.step, self.student, self.learner, keep)
            if not isinstance(error, TeacherAway):
                raise
            raise TeacherGone(
                f"{error.message}; step {self.step} is kept in {self._folder}: go on with --resume once the teacher "
                "is back"
            ) from error

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its metrics."""
        started_s = time.monotonic()
        # Each step's randomness is its own: a resumed run needs no generator state.
        torch.manual_seed(hash((self._config.seed, self.step)) % 2**63)
        batch, metrics = self._rollouts()
        update_s = time.monotonic()
        metrics |= self.learner.step(batch)
        self.step += 1
        updated_s = time.monotonic()
        self.sampler.update(self.step)
        now_s = time.monotonic()
        metrics |= {
            "time/update_s": updated_s - update_s,
            "time/weights_s": now_s - updated_s,
            "time/step_s": now_s - started_s,
        }
        return metrics

    def validate(self) -> float:
        """Greedy accuracy on the validation rows."""
        config = self._config
        if config.data.validation is None:
            raise ValueError(
                "eval.every is set but data.validation is not; name a file of validation rows"
            )
        return self.evaluate(config.data.validation, config.eval.limit).accuracy

    def evaluate(self, path: str | Path, limit: int | None) -> Evaluation:
        """Greedy answers to the first rows of a file."""
        rows = DataSet(path, self._config.data)
        count = min(limit or len(rows), len(rows))
        prompts = (self.builder.build(rows[i], 0) for i in range(count))
        return evaluate(self.sampler, prompts, self._config.eval.batch_size)

    def _rollouts(self) -> tuple[list[ScoredRollout], dict[str, float]]:
        """Sample the step's responses; each goes to the teacher as soon as it is finished."""
        batch, started_s = self._config.batch, time.monotonic()
        lost: Counter[str] = Counter()
        prompts: list[StudentPrompt] = []
        rollouts: dict[int, Rollout] = {}
        scores: dict[int, Future[Scores]] = {}
        indices = self.data.indices(self.step, batch.prompts, self._config.seed)
        # The teacher holds prompts until their last response is scored: those of a round or two, not of the whole step.
        per_round = max(1, self._config.sampler.batch_size // batch.responses_per_prompt)
        for first in range(0, len(indices), per_round):
            built = self._build(indices[first : first + per_round], lost)
            puts = [self.teachers[prompt.teacher].submit_prompt(prompt.wire) for prompt in built]
            offset = len(prompts)
            asked = [prompt for prompt in built for _ in range(batch.responses_per_prompt)]
            prompts += asked

            def send(index: int, rollout: Rollout, puts=puts, offset=offset, asked=asked) -> None:
                rollouts[offset + index] = rollout
                put = puts[index // batch.responses_per_prompt]
                teacher = self.teachers[asked[index].teacher]
                scores[offset + index] = teacher.submit_score(put, self._item(rollout))

            self.sampler.sample(asked, self.step, send)
            waiting = [scores[offset + i] for i in range(len(asked))]
            self._drop_when_scored(built, puts, waiting)
        sampled_s = time.monotonic()
        scored = self._collect(prompts, rollouts, scores, lost)
        waited_s = time.monotonic()
        lengths = [len(rollout.response_ids) for rollout in rollouts.values()]
        supports = sum(len(s.scores.support_ids) for s in scored) / sum(
            s.scores.rows for s in scored
        )
        return scored, {
            "time/sample_s": sampled_s - started_s,
            "time/teacher_wait_s": waited_s - sampled_s,
            "rollout/tokens": float(sum(lengths)),
            "rollout/length_mean": sum(lengths) / len(lengths),
            "rollout/finished_share": sum(r.finished for r in rollouts.values()) / len(rollouts),
            "rollout/dropped": float(sum(lost.values())),
            "support/ids_mean": supports,
            "wire/bytes_per_token": self.teachers.bytes_per_token,
            "wire/cache_hits": float(self.teachers.cache_hits),
        }

    def _build(self, indices: Sequence[int], lost: Counter[str]) -> list[StudentPrompt]:
        """Prompts of the rows that can be read; the others are counted by reason, all their responses."""
        built: list[StudentPrompt] = []
        wanted = self._config.batch.responses_per_prompt
        for index in indices:
            try:
                built.append(self.builder.build(self.data[index], wanted))
            except ValueError as error:
                lost["unreadable row"] += wanted
                log.warning("dropped %s row %d: %s", self._config.data.train, index, error)
        return built

    def _drop_when_scored(
        self,
        prompts: Sequence[StudentPrompt],
        puts: Sequence[Future[PutPrompt]],
        scores: Sequence[Future[Scores]],
    ) -> None:
        """Let the teacher forget each prompt when the last of its responses is answered."""
        wanted = self._config.batch.responses_per_prompt
        firsts = range(0, len(scores), wanted)
        for prompt, put, first in zip(prompts, puts, firsts, strict=True):
            waiting = set(range(first, first + wanted))
            teacher = self.teachers[prompt.teacher]

            def answered(
                _: Future[Scores], i: int, put=put, waiting=waiting, teacher=teacher
            ) -> None:
                waiting.discard(i)
                if not waiting and put.exception() is None:
                    teacher.submit_drop(put.result())

            for i in list(waiting):
                scores[i].add_done_callback(functools.partial(answered, i=i))

    def _item(self, rollout: Rollout) -> ScoreItem:
        return ScoreItem(
            response_ids=rollout.response_ids,
            k=self._config.teacher.k,
            candidates=rollout.candidates,
            dtype=self._config.teacher.dtype,
            vocab_size=self._vocab_size,
        )

    def _collect(
        self,
        prompts: Sequence[StudentPrompt],
        rollouts: dict[int, Rollout],
        scores: dict[int, Future[Scores]],
        lost: Counter[str],
    ) -> list[ScoredRollout]:
        """In the batch's order, whatever came first. A response without scores leaves the batch, counted by reason."""
        scored: list[ScoredRollout] = []
        for index, prompt in enumerate(prompts):
            try:
                answer = scores[index].result()
            except DROPPABLE as error:
                lost[type(error).__name__] += 1
                log.warning("dropped step=%d response=%d reason=%s", self.step, index, error)
            else:
                scored.append(ScoredRollout(prompt, rollouts[index], answer))
        dropped, wanted = sum(lost.values()), len(scored) + sum(lost.values())
        if dropped > self._config.teacher.max_dropped_share * wanted or not scored:
            raise TooManyDropped(
                f"{dropped} of {wanted} responses of step {self.step} are lost ({dict(lost)}); "
                f"teacher.max_dropped_share allows {self._config.teacher.max_dropped_share:g}"
            )
        return scored

    def _warn_if_blind(self, vds_mean: float) -> None:
        self._blind_steps = self._blind_steps + 1 if vds_mean < BLIND_VDS else 0
        if self._blind_steps == 5:
            log.warning(
                "mean VDS has been below %g nats for 5 steps: the teacher answers the same with and without the "
                "pictures, and steering falls back to standard distillation; are the images in the prompts?",
                BLIND_VDS,
            )
