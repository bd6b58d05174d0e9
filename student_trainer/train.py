"""`student-trainer train`: sample, have it scored as it comes, update. One step is one optimizer batch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from protos.errors import TeacherError
from protos.replica_set import TeacherAway
from student_trainer.batches import Batches, refuse_idle_ranks
from student_trainer.best_checkpoint import BestCheckpoint, point_to_last
from student_trainer.blindness import Blindness
from student_trainer.checkpoint import checkpoints, restore, save_checkpoint
from student_trainer.config import TrainConfig
from student_trainer.data import DataSet
from student_trainer.errors import (
    RunFailed,
    RunInterrupted,
    TeacherGone,
    TooManyDropped,
    TrainerError,
)
from student_trainer.evaluate import Evaluation, Evaluator, validation_rows
from student_trainer.interruption import Interruption, StopHere
from student_trainer.learner import Learner
from student_trainer.metrics import MetricsLog
from student_trainer.pipeline import Pipeline
from student_trainer.prior import Prior
from student_trainer.prompting import PromptBuilder
from student_trainer.reward_stage import RewardStage
from student_trainer.rollout_stage import RolloutStage
from student_trainer.run_config import refuse_changes, write_config
from student_trainer.sampling import make_sampler
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.stage_clock import StageClock
from student_trainer.step_time import StepTime
from student_trainer.student import Student
from student_trainer.teachers import Teachers
from student_trainer.trackers import open_trackers, refuse_absent
from student_trainer.world import World, own_device

log = logging.getLogger(__name__)


def train(config: TrainConfig, interruption: Interruption | None = None) -> Path:
    """Run to the last step; returns the last checkpoint. Raises TeacherError or TrainerError."""
    with Trainer(config, interruption) as trainer:
        return trainer.run()


class Trainer:
    """A run: student, teacher, data and learner, stepped in turn."""

    def __init__(self, config: TrainConfig, interruption: Interruption | None = None) -> None:
        self._config = config
        self._interruption = interruption or Interruption()
        refuse_absent(config.trackers)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._folder = config.run_dir / "checkpoints"
        last = self._last_checkpoint()
        self.data = DataSet(config.data.train, config.data)
        self.data.refuse_teachers_beyond(config.teacher.named)
        self._validation = validation_rows(config)
        with contextlib.ExitStack() as opened:
            self.world = World(own_device(config.device), sharded=config.parallel == "fsdp2")
            refuse_idle_ranks(config, self.world)
            self.student = self._load(last)
            self.builder = PromptBuilder(self.student.processor, config.data)
            trace = config.run_dir / f"trace-{self.world.rank}.json" if config.trace else None
            self.clock = StageClock(trace, self.world.rank)
            opened.callback(self.clock.close)
            self.teachers = self._connect(opened)
            known = [self.student.vocab_size]
            known += [self.teachers.vocab_size] if self.teachers else []
            # Both may copy the student, which nobody has whole afterwards.
            prior = Prior(
                config.objective, self.student, (lambda: self._load(None)) if last else None
            )
            self.sampler = make_sampler(config, self.student, self.builder, min(known), self.world)
            opened.callback(self.sampler.close)
            self.student.shard(self.world)
            prior.shard(self.world)
            self.learner = Learner(self.student, config, min(known), self.world, prior)
            self.step = restore(last, self.student, self.learner, self.world) if last else 0
            self.stage = RolloutStage(
                config, self.data, self.builder, self.sampler, self.teachers, min(known), self.world,
                self.clock,
            )  # fmt: skip
            pipeline = opened.enter_context(
                Pipeline(self.stage.sample, self._publish, config.max_lag)
            )
            self._evaluator = Evaluator(
                self.sampler, self._publish, self.builder, self.world, config.eval.batch_size
            )
            self._batches = Batches(
                config, pipeline, self.stage, self._reward_stage(), self.teachers, self.world, self.clock
            )  # fmt: skip
            infos = self.teachers.infos if self.teachers else []
            if self.world.first:
                write_config(config, infos, self.builder.processor_fingerprint)
            self._log = self._open_log() if self.world.first else None
            if self._log:
                opened.callback(self._log.close)
            self._best = BestCheckpoint(self._folder, self.world, self.step if last else None)
            self._opened = opened.pop_all()
        self._saved_step, self._blindness = self.step, Blindness()

    def _publish(self) -> None:
        """Sample from now on from the student as it is."""
        self.stage.publish(self.step)

    def _load(self, checkpoint: Path | None) -> Student:
        config = self._config
        device = str(self.world.device)
        return Student(config.model, device, config.precision, config.student, checkpoint)

    def _last_checkpoint(self) -> Path | None:
        found = checkpoints(self._folder)
        if not found:
            return None
        if not self._config.resume:
            raise ValueError(
                f"{self._config.run_dir} holds a run already; say --resume to go on, or choose another --run-dir"
            )
        refuse_changes(self._config)
        return found[-1]

    def _open_log(self) -> MetricsLog:
        config = self._config
        settings = config.model_dump(mode="json", by_alias=True)
        trackers = open_trackers(config.trackers, config.run_dir, self.step, settings)
        return MetricsLog(config.run_dir, self.step, trackers)

    def _connect(self, opened: contextlib.ExitStack) -> Teachers | None:
        """The teacher's client; none where only rewards are followed."""
        if self._config.objective.name == "grpo":
            return None
        config = self._config.teacher
        if config.cache_dir is not None and self.world.size > 1:  # a folder has one who writes
            own = config.cache_dir / f"rank-{self.world.rank}"
            config = config.model_copy(update={"cache_dir": own})
        teachers = Teachers(
            config,
            tokenizer_fingerprint=self.builder.tokenizer_fingerprint,
            processor_fingerprint=self.builder.processor_fingerprint,
        )
        return opened.enter_context(teachers)

    def _reward_stage(self) -> RewardStage | None:
        config = self._config.rewards
        return None if config is None else RewardStage(config, self.student.processor.tokenizer)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._opened.close()
        if kind is None:
            self.world.close()  # else others may wait for this rank: it ends, and torchrun ends them

    def run(self) -> Path:
        """All steps that are left, with evaluations and checkpoints on the way; returns the last checkpoint.

        Raises RunInterrupted where a signal ends it before, with a checkpoint of what was reached, and RunFailed where
        a disk or a network does.
        """
        with self._interruption.later():
            try:
                return self._run()
            except StopHere:
                self._leave()
            except (TeacherError, TrainerError):
                raise
            except OSError as error:
                raise RunFailed(f"step {self.step} failed: {error}") from error

    def _leave(self) -> NoReturn:
        """Keep what was reached, and end."""
        try:
            if self.step > self._saved_step:
                self._save()
        except OSError as error:
            raise RunFailed(f"interrupted; step {self.step} can't be kept: {error}") from error
        kept = f"step {self.step} is kept in {self._folder}: go on with --resume"
        said = kept if self.step else "before the first step; nothing is kept"
        raise RunInterrupted(f"interrupted; {said}") from None

    def _run(self) -> Path:
        config = self._config
        quiet = None if self.world.first else True
        bar = tqdm(total=config.steps, initial=self.step, unit="step", disable=quiet)
        saved, spent = None, StepTime()
        if not self._was_evaluated():
            self._evaluate_into({})
        while self.step < config.steps:
            self._stop_if_asked()
            with self._kept_if_teacher_fails():
                metrics = self.train_step()
            spent.add(metrics)
            self._evaluate_into(metrics)
            self._blindness.watch(metrics)
            bar.set_postfix(loss=f"{metrics['loss/total']:.4f}")
            bar.update()
            if bar.disable and self.world.first and self.step % max(1, config.steps // 20) == 0:
                log.info("step=%d/%d loss=%.4f", self.step, config.steps, metrics["loss/total"])
            if self._pauses(self.step, config.checkpoint.every):
                saved = self._save()
        bar.close()
        if self.world.first and spent.steps:
            log.info("%s", spent)
        return saved or checkpoints(self._folder)[-1]

    def _stop_if_asked(self) -> None:
        """Between two steps, on all ranks if one was asked to."""
        if self._may_be_left and any(self.world.sums([self._interruption.asked])):
            raise StopHere

    @property
    def _may_be_left(self) -> bool:
        """Whether a run can go on from a checkpoint of now: steps that share rollouts are done together."""
        return self.step % self._config.batch.steps_per_rollout == 0

    def _pauses(self, step: int, every: int) -> bool:
        return step == self._config.steps or bool(every and step % every == 0)

    def _save(self) -> Path:
        keep = self._config.checkpoint.keep
        saved = save_checkpoint(
            self._folder, self.step, self.student, self.learner, keep, self.world
        )
        self._saved_step = self.step
        if self.world.first:
            point_to_last(saved)
        return saved

    @contextlib.contextmanager
    def _kept_if_teacher_fails(self) -> Iterator[None]:
        """Where the teacher or the sampler fails for good, leave a checkpoint of what was reached before."""
        try:
            yield
        except (TeacherError, TooManyDropped) as error:
            if self.step > self._saved_step:
                self._save()
            if not isinstance(error, TeacherAway):
                raise
            kept = f"step {self.step} is kept in {self._folder}: go on with --resume"
            said = kept if self.step else "before the first step: start again"
            raise TeacherGone(f"{error.message}; {said} once the teacher is back") from error

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its metrics."""
        with self.clock.time("step", "waiting", step=self.step):
            with self._stopping():
                batch, metrics = self.next_batch()
            with self.clock.time("update", "learner", step=self.step):
                metrics |= self.learner.step(batch, self.step)
            self.step += 1
        return metrics | self.clock.take()

    def next_batch(self) -> tuple[list[ScoredRollout], dict[str, float]]:
        """Scored responses of this rank for the present step, and metrics over all ranks."""
        pauses = self._pauses_within(self._config.batch.steps_per_rollout)
        return self._batches.take(self.step, may_sample_next=not pauses)

    def _pauses_within(self, steps: int) -> bool:
        """Whether a checkpoint or an evaluation comes after just so many more steps."""
        rests = (self._config.checkpoint.every, self._config.eval.every)
        return any(self._pauses(self.step + steps, every) for every in rests)

    def _stopping(self) -> contextlib.AbstractContextManager[None]:
        """A signal ends the run at once, where one process alone is between two updates.

        Several ranks leave together, after a step: a sum would wait for one that is gone.
        """
        may_stop = self.world.size == 1 and self._may_be_left
        return self._interruption.at_once() if may_stop else contextlib.nullcontext()

    def _evaluate_into(self, metrics: dict[str, float]) -> None:
        """Log the step's metrics, with the accuracy on the validation rows where it is time for one.

        The student is kept where that was never higher. Nothing may be under way in the sampler.
        """
        try:
            if self._validation and self._pauses(self.step, self._config.eval.every):
                with self._kept_if_teacher_fails(), self._stopping():
                    accuracy = self.validate()
                metrics["eval/accuracy"] = accuracy
                self._best.offer(self.step, accuracy, self.student)
        finally:
            if self._log and metrics:
                self._log.write(self.step, metrics)

    def _was_evaluated(self) -> bool:
        """Whether the student is as an evaluation before a resume found it; a signal may have broken that off."""
        told = self._log is not None and "eval/accuracy" in self._log.last_kept
        return any(self.world.sums([told]))

    def validate(self) -> float:
        """Greedy accuracy on the validation rows, over all ranks."""
        assert self._validation is not None, "eval.every is 0"
        return self._evaluator.accuracy(self._validation, self._config.eval.limit)

    def evaluate(self, path: str | Path, limit: int | None) -> Evaluation:
        """Greedy answers of the student as it is to this rank's share of the first rows of a file."""
        return self._evaluator.answers(DataSet(path, self._config.data), limit)
