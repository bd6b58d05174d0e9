"""What a step by vgs-lp takes over one by standard distillation: the same rollouts, the same student.

`python -m benchmarks.trainer.step_cost`, from the repository root, on a CPU, one torch thread to a stage. Sampling,
updates, pipeline, client, wire and server are the real ones. The student is a random Qwen3-VL whose vision tower and
head have the shares of work that they have in Qwen3-VL-2B (`shape`); a learning rate of 1e-12 leaves its weights as
they are, so that both objectives sample the same answers from the same seeds. The objectives take turns.

The teacher's device is simulated: a process with an engine that sleeps, and costs next to no CPU. It is no slower than
the learner: both contexts of a batch take as long as standard's update. Our server always scores both contexts;
standard distillation asks for one, so that its teacher is charged the part of Qwen3-VL-8B's work that one context is.

    no_overlap    max_lag 0: sampling, what is left to wait for the teacher, and the update follow each other
    overlap       max_lag 1: sampler and learner have a core each

With overlap a step takes as long as the slower of the two, and at least half of what sampling, the rest of the scoring
and the update take together: the answers of step n + 1 are sampled from the weights that step n - 1 left. The rest of
the scoring is that of the answers sampled last, so that it weighs less the more of them a step has. Four are sampled at
once and make a microbatch; a step of four is all rest, which nobody trains with, and is measured beside one of sixteen
(the paper's has 128). How sampling and update compare is `sample_over_update`; where the sampler bounds the run the
ratio is 1. Steps in which eta "auto" is measured have a backward pass for each part of the objective; they are told
apart and don't count.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Literal

from benchmarks.service.engine import Device
from benchmarks.trainer.shape import QWEN3_VL_2B, QWEN3_VL_8B, SMALL, Lengths, Shape
from benchmarks.trainer.student import make_student, write_rows
from benchmarks.trainer.teacher import simulated_teacher
from student_trainer.config import TrainConfig
from student_trainer.train import Trainer

OBJECTIVES = ("standard", "vgs-lp")
ETA_STEPS = 5
"""In which eta "auto" is measured: the trainer's own number."""
CALIBRATION = 4
LENGTHS = Lengths(image=256, text=75, response=192)
STAGES = ("step", "sample", "sampler_wait", "teacher_wait", "update")
Metrics = dict[str, float]
Runs = dict[str, list[Metrics]]
"""Steps of each objective."""


@dataclass(frozen=True)
class Setup:
    """What is trained, and for how long."""

    shape: Shape = SMALL
    lengths: Lengths = LENGTHS
    """Of the response on average."""
    max_new_tokens: int = 256
    ends: int = 6
    """Words that end an answer."""
    microbatch: int = 4
    """Answers sampled, and learnt from, at once; each has a question and a picture of its own."""
    overlapped: tuple[int, ...] = (4, 16)
    """Answers of a step at lag 1, multiples of a microbatch; `step_time_vgs_lp_over_standard` is of the last."""
    warm_up: int = ETA_STEPS + 1
    steps: int = 24
    """Of each objective and lag that count."""
    fill: int = 2
    """Steps at lag 1 until all stages work side by side."""
    turn: int = 6
    """Steps at lag 1 that count before the other objective's turn: even, and `steps` a multiple of it."""
    rows: int = 64


@dataclass(frozen=True)
class Runner:
    """Makes trainers of the same student on the same questions."""

    setup: Setup
    folder: Path

    @property
    def student(self) -> Path:
        """The model's folder."""
        return self.folder / "student"

    @property
    def data(self) -> Path:
        """Its questions."""
        return self.folder / "data.parquet"

    def trainer(
        self, objective: str, address: str, max_lag: Literal[0, 1], pause: int, answers: int
    ) -> Trainer:
        """At lag 1 nothing is sampled beside every `pause`-th step."""
        sizes = self.setup
        config = {
            "model": str(self.student),
            "run_dir": tempfile.mkdtemp(dir=self.folder),
            "steps": 10**6,
            "device": "cpu",
            "threads": 1,
            "max_lag": max_lag,
            "data": {"train": str(self.data)},
            "sampler": {"batch_size": sizes.microbatch, "max_new_tokens": sizes.max_new_tokens},
            "teacher": {"address": address},
            "objective": {"name": objective, "eta_steps": ETA_STEPS},
            "optimizer": {"lr": 1e-12},
            "batch": {"prompts": answers, "microbatch": sizes.microbatch},
            "checkpoint": {"every": pause},
            "trackers": (),
        }
        return Trainer(TrainConfig.model_validate(config))

    @contextlib.contextmanager
    def trainers(
        self,
        addresses: Mapping[str, str],
        max_lag: Literal[0, 1] = 0,
        pause: int = 0,
        answers: int | None = None,
    ) -> Iterator[dict[str, Trainer]]:
        """One for each objective; a step has a microbatch of answers unless it is said."""
        answers = answers or self.setup.microbatch
        with contextlib.ExitStack() as stack:
            yield {
                name: stack.enter_context(self.trainer(name, address, max_lag, pause, answers))
                for name, address in addresses.items()
            }

    def token_s(self) -> dict[str, float]:
        """Seconds of the teacher's device for a response token, by objective."""
        with (
            simulated_teacher(Device(0.0), self.student) as address,
            self.trainers({"standard": address}) as trainers,
        ):
            found = [trainers["standard"].train_step() for _ in range(CALIBRATION)][1:]
        both = sum(s["time/update_s"] for s in found) / sum(s["rollout/tokens"] for s in found)
        return {
            "standard": both / QWEN3_VL_8B.contexts_ratio(self.setup.lengths),
            "vgs-lp": both,
        }

    def without_overlap(self, addresses: Mapping[str, str]) -> Runs:
        """A step of one, a step of the other; those of the warm-up are among them."""
        found: Runs = {name: [] for name in addresses}
        with self.trainers(addresses) as trainers:
            for _ in range(self.setup.warm_up + self.setup.steps):
                for name, trainer in trainers.items():
                    found[name].append(trainer.train_step())
        return found

    def with_overlap(self, addresses: Mapping[str, str], answers: int) -> Runs:
        """Some steps of one, some of the other: else one's sampler would work beside the other's learner.

        Means of two steps each: at lag 1 the wait may fall on every other one. A first turn is the warm-up.
        """
        sizes, found = self.setup, {name: list[Metrics]() for name in addresses}
        pause = sizes.fill + sizes.turn + 1
        with self.trainers(addresses, 1, pause, answers) as trainers:
            for turn in range(1 + sizes.steps // sizes.turn):
                for name, trainer in trainers.items():
                    steps = [trainer.train_step() for _ in range(pause)][sizes.fill : -1]
                    if turn:
                        pairs = zip(steps[::2], steps[1::2], strict=True)
                        found[name] += [{n: (a[n] + b[n]) / 2 for n in a} for a, b in pairs]
        return found


def measure(setup: Setup = Setup()) -> dict[str, float]:
    """Medians of both objectives, without and with overlap, and their ratios."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        runner = Runner(setup, Path(name))
        parameters = make_student(runner.student, setup.shape, setup.ends)
        write_rows(runner.data, setup.rows, setup.shape, setup.lengths)
        addresses = {
            name: stack.enter_context(simulated_teacher(Device(seconds), runner.student))
            for name, seconds in runner.token_s().items()
        }
        everything = runner.without_overlap(addresses)
        beside = {answers: runner.with_overlap(addresses, answers) for answers in setup.overlapped}
    for runs in (everything, *beside.values()):
        tokens = [[step["rollout/tokens"] for step in runs[name]] for name in OBJECTIVES]
        assert tokens[0] == tokens[1], "the objectives did not train on the same rollouts"
    eta = {name: steps[1:ETA_STEPS] for name, steps in everything.items()}
    apart = {name: steps[setup.warm_up :] for name, steps in everything.items()}
    standard = apart["standard"]
    most = setup.overlapped[-1]
    figures = {
        "step_time_vgs_lp_over_standard": _ratio(beside[most], "step"),
        "step_time_vgs_lp_over_standard_answers": most,
        "step_time_vgs_lp_over_standard_no_overlap": _ratio(apart, "step"),
        "update_time_vgs_lp_over_standard": _ratio(apart, "update"),
        "update_time_vgs_lp_over_standard_while_eta_is_measured": _ratio(eta, "update"),
        "sample_over_update": _median(standard, "sample") / _median(standard, "update"),
        "step_cost_parameters": parameters,
        "step_cost_response_tokens": mean(step["rollout/length_mean"] for step in standard),
        **_medians(apart, "no_overlap"),
        **_shares(setup),
    }
    for answers, runs in beside.items():
        kind = f"overlap_{answers}_answers"
        figures[f"step_time_vgs_lp_over_standard_{kind}"] = _ratio(runs, "step")
        figures |= _medians(runs, kind)
    return figures


def _median(steps: Sequence[Metrics], stage: str) -> float:
    return median(step[f"time/{stage}_s"] for step in steps)


def _ratio(runs: Runs, stage: str) -> float:
    return _median(runs["vgs-lp"], stage) / _median(runs["standard"], stage)


def _medians(runs: Runs, kind: str) -> dict[str, float]:
    """Seconds of every stage."""
    return {
        f"{stage}_s_{name.replace('-', '_')}_{kind}": _median(runs[name], stage)
        for stage in STAGES
        for name in OBJECTIVES
    }


def _shares(setup: Setup) -> dict[str, float]:
    """Counted operations: of the student that is measured, and of the one that it stands for."""
    lengths, shapes = setup.lengths, {"student": setup.shape, "qwen3_vl_2b": QWEN3_VL_2B}
    found: dict[str, float] = {}
    for name, shape in shapes.items():
        found |= {
            f"vision_flops_share_{name}": shape.vision_share(lengths),
            f"head_flops_share_{name}": shape.head_share(lengths),
            f"update_flops_vgs_lp_over_standard_{name}": shape.update_ratio(lengths),
        }
    return found | {
        "teacher_charge_vgs_lp_over_standard": QWEN3_VL_8B.contexts_ratio(setup.lengths)
    }


def main() -> None:
    """Print the figures."""
    print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
