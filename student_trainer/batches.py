"""What each step trains on: batches taken from the pipeline, parted among the steps that share them, and judged."""

from __future__ import annotations

from collections.abc import Sequence

from student_trainer.config import TrainConfig
from student_trainer.errors import TooManyDropped
from student_trainer.pipeline import Pipeline
from student_trainer.reward_stage import RewardStage
from student_trainer.rollout_stage import RolloutStage, SampledBatch
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.stage_clock import StageClock
from student_trainer.teachers import Teachers
from student_trainer.world import World


class Batches:
    """Scored responses of this rank, step by step; `steps_per_rollout` steps share what was sampled together."""

    def __init__(
        self,
        config: TrainConfig,
        pipeline: Pipeline,
        stage: RolloutStage,
        rewards: RewardStage | None,
        teachers: Teachers | None,
        world: World,
        clock: StageClock,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._stage = stage
        self._rewards = rewards
        self._teachers = teachers
        self._world = world
        self._clock = clock
        self._parts: list[list[ScoredRollout]] = []

    def take(
        self, step: int, may_sample_next: bool
    ) -> tuple[list[ScoredRollout], dict[str, float]]:
        """What `step` trains on, and metrics over all ranks.

        Raises TooManyDropped where too few responses came of it, and on all ranks whatever one of them failed of.
        """
        shared = self._config.batch.steps_per_rollout
        metrics: dict[str, float] = {}
        if step % shared == 0:
            self._parts, metrics = self._next_parts(step, may_sample_next)
        part = self._parts[step % shared]
        if self._rewards is not None:
            part, sums = self._rewards.judge(part)
            names = list(sums)
            responses, *totals = self._world.sums([len(part), *(sums[name] for name in names)])
            metrics |= {n: t / responses for n, t in zip(names, totals, strict=True)}
        return part, metrics

    def _next_parts(
        self, step: int, may_sample_next: bool
    ) -> tuple[list[list[ScoredRollout]], dict[str, float]]:
        """What `step` and those that share its rollouts train on."""
        index = step // self._config.batch.steps_per_rollout
        failure: Exception | None = None
        sampled, waiting = SampledBatch(index), 0
        parts: list[list[ScoredRollout]] = []
        try:
            with self._clock.time("sampler_wait", "waiting", batch=index):
                sampled = self._pipeline.take(index, may_sample_next)
            waiting = sampled.waiting
            parts = self._stage.collect(sampled, step)
        except Exception as error:
            failure = error
        self._world.leave_together(failure)
        self._refuse_many_lost(sampled, parts, step)
        return parts, self._metrics(sampled, parts, step) | {
            "queue/unscored": float(waiting),
            "queue/sampled_ahead": float(self._pipeline.ahead),
        }

    def _refuse_many_lost(
        self, sampled: SampledBatch, parts: Sequence[Sequence[ScoredRollout]], step: int
    ) -> None:
        dropped = sum(sampled.lost.values())
        empty = not all(parts)
        dropped, kept, empty = self._world.sums([dropped, sum(map(len, parts)), empty])
        share = self._config.teacher.max_dropped_share
        if dropped > share * (kept + dropped) or empty:
            raise TooManyDropped(
                f"{dropped:g} of {kept + dropped:g} responses for step {step} are lost (here: "
                f"{dict(sampled.lost)}); teacher.max_dropped_share allows {share:g}, and each step and rank needs one"
            )

    def _metrics(
        self, sampled: SampledBatch, parts: Sequence[Sequence[ScoredRollout]], step: int
    ) -> dict[str, float]:
        rollouts = list(sampled.rollouts.values())
        scored = [one.scores for part in parts for one in part if one.scores is not None]
        responses, tokens, finished, dropped, stale, ids, rows = self._world.sums(
            [
                len(rollouts),
                sum(len(rollout.response_ids) for rollout in rollouts),
                sum(rollout.finished for rollout in rollouts),
                sum(sampled.lost.values()),
                sampled.lost["stale"],
                sum(len(scores.support_ids) for scores in scored),
                sum(scores.rows for scores in scored),
            ]
        )
        metrics = {
            "rollout/tokens": tokens,
            "rollout/length_mean": tokens / responses,
            "rollout/finished_share": finished / responses,
            "rollout/dropped": dropped,
            "rollout/stale": stale,
            "rollout/lag": float(step - min(r.policy_step for r in rollouts)),
        }
        if self._teachers is None:
            return metrics
        return metrics | {
            "support/ids_mean": ids / rows,
            "wire/bytes_per_token": self._teachers.bytes_per_token,
            "wire/cache_hits": float(self._teachers.cache_hits),
        }


def refuse_idle_ranks(config: TrainConfig, world: World) -> None:
    """Raise ValueError where a step has fewer questions than there are ranks to ask them."""
    sizes = config.batch
    if sizes.prompts // sizes.steps_per_rollout < world.size:
        raise ValueError(
            f"batch.prompts {sizes.prompts} over batch.steps_per_rollout {sizes.steps_per_rollout} are fewer questions "
            f"a step than there are ranks, {world.size}; raise batch.prompts, or start fewer ranks"
        )
