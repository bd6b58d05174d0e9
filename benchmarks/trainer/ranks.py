"""One rank, two with all weights each (DDP) and two with half of them (FSDP2): the same losses on the same rollouts.

`python -m benchmarks.trainer.ranks`, from the repository root, on a CPU: the digits toy, whose teacher runs as a
process of its own. Rollouts are sampled and scored once and handed to every run by a file. Losses are compared at each
of 10 steps of vgs-lp in float32. The ranks get unequal shares, so that one has more microbatches than the other.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.multiprocessing.spawn import spawn

from student_trainer.checkpoint import restore, save_checkpoint
from student_trainer.config import TrainConfig
from student_trainer.demo_config import DemoConfig
from student_trainer.learner import Learner
from student_trainer.prior import Prior
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.student import Student
from student_trainer.teacher_process import teacher_process
from student_trainer.train import Trainer
from student_trainer.world import World

CONFIG = Path("examples/digits/demo.toml")
RANKS = 2
STEPS = 10
FIRST_SHARE = 0.8
"""Of the first of two ranks: responses to pictures come first, so that it may have all of these."""

Result = TypeVar("Result")
Losses = list[dict[str, float]]
"""Of each step, by the metric's name."""


@dataclass(frozen=True)
class Leg:
    """Some steps of a run on recorded rollouts."""

    name: str
    config: TrainConfig
    recording: Path
    first: int = 0
    end: int = STEPS
    resume: Path | None = None
    """Checkpoint to go on from, after `first` steps."""
    save_after: int | None = None
    """Steps after which one is left in the configuration's `run_dir`."""


def measure() -> dict[str, float]:
    """Largest difference of a loss from that of one rank, in nats."""
    demo = DemoConfig.model_validate(tomllib.loads(CONFIG.read_text()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with teacher_process(Path(demo.teacher_config), folder) as address:
            settings = demo.train.model_dump(by_alias=True) | {
                "run_dir": folder / "recorded",
                "steps": STEPS,
                "teacher": demo.train.teacher.model_copy(update={"address": address}),
                "batch": {"prompts": 16, "microbatch": 4},
                "objective": {"name": "vgs-lp", "lambda": 1.0, "eta": "auto"},
                "trackers": (),
            }
            config = TrainConfig.model_validate(settings)
            recording = record(config, folder / "rollouts")
        alone = run(Leg("alone", _variant(config, folder, "ddp"), recording))
        legs = [Leg(kind, _variant(config, folder, kind), recording) for kind in ("ddp", "fsdp2")]
        found = on_ranks(run_all, legs)[0]
    return {f"{kind}_loss_max_abs_diff": largest_difference(found[kind], alone) for kind in found}


def _variant(config: TrainConfig, folder: Path, kind: str) -> TrainConfig:
    return config.model_copy(update={"parallel": kind, "run_dir": folder / kind})


def record(config: TrainConfig, path: Path) -> Path:
    """Write rollouts of the initial student with their scores, for each of the steps."""
    with Trainer(config) as trainer:
        steps = []
        for trainer.step in range(config.steps):
            batch, _ = trainer.next_batch()
            steps.append(sorted(batch, key=lambda one: not one.prompt.wire.images))
    path.write_bytes(pickle.dumps(steps))
    return path


def share(batch: Sequence[ScoredRollout], world: World) -> Sequence[ScoredRollout]:
    """What this rank gets of a step's responses."""
    if world.size == 1:
        return batch
    cut = round(FIRST_SHARE * len(batch))
    return batch[:cut] if world.first else batch[cut:]


def run(leg: Leg) -> Losses:
    """Train as `Trainer` does, but on recorded rollouts."""
    config = leg.config
    world = World(torch.device("cpu"), sharded=config.parallel == "fsdp2")
    student = Student(config.model, "cpu", config.precision, config.student, leg.resume)
    prior = Prior(config.objective, student)
    student.shard(world)
    prior.shard(world)
    learner = Learner(student, config, student.vocab_size, world, prior)
    if leg.resume is not None:
        assert restore(leg.resume, student, learner, world) == leg.first
    batches, losses = pickle.loads(leg.recording.read_bytes()), []
    for step in range(leg.first, leg.end):
        metrics = learner.step(share(batches[step], world), step)
        losses.append({name: value for name, value in metrics.items() if name.startswith("loss/")})
        if step + 1 == leg.save_after:
            save_checkpoint(config.run_dir, step + 1, student, learner, 1, world)
    return losses


def run_all(legs: Sequence[Leg]) -> dict[str, Losses]:
    """Of each leg, by its name."""
    return {leg.name: run(leg) for leg in legs}


def on_ranks(work: Callable[[Any], Result], argument: object) -> list[Result]:
    """What `work(argument)` makes on each of `RANKS` processes, joined over loopback. Both are pickled."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        paths = [Path(name) / str(rank) for rank in range(RANKS)]
        spawn(_rank, (work, argument, port, paths), nprocs=RANKS)
        return [pickle.loads(path.read_bytes()) for path in paths]


def _rank(
    rank: int, work: Callable[[Any], Any], argument: object, port: int, paths: Sequence[Path]
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    group = World(torch.device("cpu"))
    paths[rank].write_bytes(pickle.dumps(work(argument)))
    group.close()


def largest_difference(found: Losses, expected: Losses) -> float:
    """Over all losses of all steps."""
    return max(
        abs(one[name] - other[name])
        for one, other in zip(found, expected, strict=True)
        for name in one.keys() | other.keys()
    )


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
