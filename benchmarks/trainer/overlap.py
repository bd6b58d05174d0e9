"""What `max_lag` 1 saves over 0 where sampler, teacher and learner are equally slow, and what is left to wait for.

`python -m benchmarks.trainer.overlap`, from the repository root. Trainer, pipeline, rollout stage, client, wire and
server are the real ones. Simulated is what their devices do: the sampler takes S seconds to bring its batch, the
teacher's engine sleeps S seconds for the tokens of a batch, the learner's step sleeps S seconds.

How answers end within the S seconds of sampling decides what is left of the teacher's work when the last one has ended,
the tail U. Three ways, equally long for the sampler and for the teacher:

    even         one after the other, as from a server whose slots are always full
    by_length    all begin together and grow alike, lengths spread evenly: the longest, which cost most, end last
    at_end       all are equally long and end together: the teacher stands idle meanwhile

Answers for step n + 1 are sampled from weights that step n - 1 left, so that at lag 1 sampling, the tail and an update
lie on the way from step n - 1 to step n + 1, whatever the order of work:

    a step takes    lag 0: S + U + S        lag 1: at least max(S, (S + U + S) / 2)

The second is half of the first for all three, and of the tail U / 2 must be waited for in each step: even answers alone
leave a tail that is short. `lag1_over_lag0_wall` is the largest ratio of the three, `teacher_wait_share` that of even
answers; the others' stand beside it, and `_bound` is the least that the formula allows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
from torch import Generator

from benchmarks.service.engine import Device
from benchmarks.trainer.teacher import simulated_teacher
from student_trainer.config import TrainConfig
from student_trainer.prompting import StudentPrompt
from student_trainer.rollout import OnFinished, Rollout
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.train import Trainer

STUDENT = Path("examples/digits/models/student")
DATA = Path("examples/digits/data/train.parquet")
FIRST_WORD = 8
"""Ids below it are special ones."""
Ending = Literal["even", "by_length", "at_end"]
ENDINGS: tuple[Ending, ...] = ("even", "by_length", "at_end")
LAGS: tuple[Literal[0], Literal[1]] = (0, 1)


@dataclass(frozen=True)
class Load:
    """What is simulated."""

    stage_s: float = 2.0
    """Seconds of each stage for a batch."""
    answers: int = 32
    """Of a batch."""
    tokens: int = 100
    """Mean length of an answer."""
    warm_up: int = 2
    steps: int = 14
    """Those that count: an even number, since at lag 1 the wait may fall on every other step."""

    def lengths(self, ending: Ending) -> list[int]:
        """Tokens of each answer, in the order in which they end."""
        if ending != "by_length":
            return [self.tokens] * self.answers
        return [
            max(1, round(2 * self.tokens * (i + 0.5) / self.answers)) for i in range(self.answers)
        ]

    def ends_s(self, ending: Ending) -> list[float]:
        """Seconds after which each ends."""
        if ending == "at_end":
            return [self.stage_s] * self.answers
        return [self.stage_s * (i + 1) / self.answers for i in range(self.answers)]

    def token_s(self, ending: Ending) -> float:
        """The teacher's seconds for a token."""
        return self.stage_s / sum(self.lengths(ending))

    def tail_s(self, ending: Ending) -> float:
        """Seconds that a teacher still works, at the least, when the last answer has ended."""
        done_s = 0.0
        for end_s, length in zip(self.ends_s(ending), self.lengths(ending), strict=True):
            done_s = max(done_s, end_s) + length * self.token_s(ending)
        return done_s - self.stage_s


class SimulatedSampler:
    """Brings random answers at their times."""

    def __init__(self, load: Load, ending: Ending, vocab_size: int) -> None:
        rng = np.random.default_rng(0)
        self._ends_s = load.ends_s(ending)
        self._answers = [
            rng.integers(FIRST_WORD, vocab_size, length).astype(np.int32)
            for length in load.lengths(ending)
        ]

    def update(self, policy_step: int) -> None:
        """Nothing to copy."""

    def sample(
        self,
        prompts: Sequence[StudentPrompt],
        policy_step: int,
        generator: Generator,
        on_finished: OnFinished,
    ) -> None:
        """One answer to each prompt."""
        began_s = time.monotonic()
        for i, (end_s, ids) in enumerate(zip(self._ends_s, self._answers, strict=True)):
            time.sleep(max(0.0, began_s + end_s - time.monotonic()))
            on_finished(i, Rollout(ids, None, True, policy_step))


def measure(load: Load = Load()) -> dict[str, float]:
    """Steps of both lags, for each way in which answers end."""
    figures: dict[str, float] = {"overlap_stage_s": load.stage_s, "overlap_answers": load.answers}
    for ending in ENDINGS:
        device = Device(load.token_s(ending))
        with simulated_teacher(device, STUDENT) as address, tempfile.TemporaryDirectory() as folder:
            lag0, lag1 = (run(load, ending, lag, address, Path(folder)) for lag in LAGS)
        tail = load.tail_s(ending) / load.stage_s
        figures |= {
            f"lag0_step_s_{ending}": lag0["time/step_s"],
            f"lag1_step_s_{ending}": lag1["time/step_s"],
            f"lag1_over_lag0_wall_{ending}": lag1["time/step_s"] / lag0["time/step_s"],
            f"teacher_wait_share_{ending}": lag1["time/teacher_wait_s"] / lag1["time/step_s"],
            f"teacher_wait_share_{ending}_bound": tail / (2 + tail),
            f"sampler_wait_share_{ending}": lag1["time/sampler_wait_s"] / lag1["time/step_s"],
        }
    return figures | {
        "lag1_over_lag0_wall": max(figures[f"lag1_over_lag0_wall_{ending}"] for ending in ENDINGS),
        "teacher_wait_share": figures["teacher_wait_share_even"],
    }


def run(
    load: Load, ending: Ending, max_lag: Literal[0, 1], address: str, folder: Path
) -> dict[str, float]:
    """Means of the steps' metrics."""
    total = load.warm_up + load.steps
    config = TrainConfig.model_validate(
        {
            "model": str(STUDENT),
            "run_dir": folder / f"lag-{max_lag}",
            "steps": total + 1,  # nothing is sampled beside the last one
            "device": "cpu",
            "threads": 1,
            "max_lag": max_lag,
            "data": {"train": str(DATA)},
            "sampler": {"batch_size": load.answers},
            "teacher": {"address": address, "k": 8},
            "batch": {"prompts": load.answers},
            "trackers": (),
        }
    )

    def update(batch: Sequence[ScoredRollout], step: int) -> dict[str, float]:
        assert len(batch) == load.answers, "an answer was lost"
        time.sleep(load.stage_s)
        return {}

    with Trainer(config) as trainer:
        simulated = SimulatedSampler(load, ending, trainer.student.vocab_size)
        with (
            patch.object(trainer.sampler, "update", simulated.update),
            patch.object(trainer.sampler, "sample", simulated.sample),
            patch.object(trainer.learner, "step", update),
        ):
            steps: list[dict[str, Any]] = [trainer.train_step() for _ in range(total)]
    counted = steps[load.warm_up :]
    return {name: sum(step[name] for step in counted) / load.steps for name in TIMES}


TIMES = ("time/step_s", "time/teacher_wait_s", "time/sampler_wait_s", "time/update_s")


def main() -> None:
    """Print the figures."""
    print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
