"""`student-trainer geometry`: how the terms' gradients stand to each other in a checkpoint of a run.

Held-out questions are answered by the checkpoint itself and scored by the run's teacher. q* stands on the checkpoint's
own text prior, as in the paper, whatever the run's objective is.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from student_trainer.best_checkpoint import BEST, LAST, read_best
from student_trainer.checkpoint import PREFIX, checkpoints
from student_trainer.config import TrainConfig
from student_trainer.data import DataSet
from student_trainer.errors import TooManyDropped
from student_trainer.geometry_config import GeometryConfig
from student_trainer.learner import GEOMETRY, Learner
from student_trainer.loss import token_weights
from student_trainer.microbatch import Microbatch
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.prior import Prior
from student_trainer.prompting import PromptBuilder
from student_trainer.rollout_stage import RolloutStage
from student_trainer.run_folder import GEOMETRY as FILE
from student_trainer.run_folder import RunFolder
from student_trainer.sampling import make_sampler
from student_trainer.scored_rollout import ScoredRollout
from student_trainer.stage_clock import StageClock
from student_trainer.student import Student
from student_trainer.teachers import Teachers
from student_trainer.vds_deciles import (
    DECILES,
    PAIRS,
    TOP,
    decile_of,
    token_geometry,
)
from student_trainer.world import World, own_device


def run_geometry(config: GeometryConfig) -> dict[str, Any]:
    """Measure, write geometry.json into the run's folder (NaN as null), and return what it says."""
    path, step = find_checkpoint(config.run / "checkpoints", config.checkpoint)
    train = _train_config(config)
    world = World(own_device(train.device))
    if world.size > 1:
        raise ValueError("geometry is measured by one process; start it without torchrun")
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    rows = DataSet(train.data.train, train.data)
    train = _with_prompts(train, min(config.limit or len(rows), len(rows)))
    with contextlib.ExitStack() as opened:
        student = Student(train.model, train.device, train.precision, train.student, path)
        builder = PromptBuilder(student.processor, train.data)
        teachers = opened.enter_context(
            Teachers(
                train.teacher,
                tokenizer_fingerprint=builder.tokenizer_fingerprint,
                processor_fingerprint=builder.processor_fingerprint,
            )
        )
        known = min(student.vocab_size, teachers.vocab_size)
        sampler = make_sampler(train, student, builder, known, world)
        opened.callback(sampler.close)
        stage = RolloutStage(train, rows, builder, sampler, teachers, known, world, StageClock())
        stage.publish(step)
        sampled = stage.sample(0)
        (batch,) = stage.collect(sampled, step)
        lost = sum(sampled.lost.values())
        if lost > train.teacher.max_dropped_share * (lost + len(batch)):
            raise TooManyDropped(
                f"{lost} of {lost + len(batch)} responses are lost ({dict(sampled.lost)}); teacher.max_dropped_share "
                f"allows {train.teacher.max_dropped_share:g}"
            )
        learner = Learner(student, train, known, world, Prior(train.objective, student))
        measured = _measure(learner, batch, known, train.batch.microbatch, world)
    found = {
        "checkpoint": path.name,
        "step": step,
        "data": train.data.train,
        "seed": train.seed,
        "prompts": train.batch.prompts,
        "responses": len(batch),
        "dropped": lost,
    } | measured  # fmt: skip
    _write(config.run / FILE, found)
    return found


def find_checkpoint(folder: Path, name: str) -> tuple[Path, int]:
    """A checkpoint under a run's `folder` by its name, "last" or "best", and the steps that it has seen."""
    whole = {path.name: path for path in checkpoints(folder)}
    best = read_best(folder)
    if name == BEST and best is not None:
        return folder / BEST, int(best["step"])
    if name == LAST and whole:
        name = list(whole)[-1]
    if name not in whole:
        known = ", ".join([*whole, *([BEST] if best else []), *([LAST] if whole else [])])
        raise ValueError(f"{folder} has no checkpoint {name!r}; it has {known or 'none'}")
    return whole[name], int(name.removeprefix(PREFIX))


def _train_config(config: GeometryConfig) -> TrainConfig:
    """The run's, with held-out rows in the place of its own, and all terms to be had."""
    run = RunFolder(config.run).config
    rows = config.data or run.data.validation
    if rows is None:
        raise ValueError(
            f"{config.run} names no data.validation; say which rows to ask with --data"
        )
    batch = {"responses_per_prompt": config.responses_per_prompt, "steps_per_rollout": 1}
    batch["microbatch"] = config.microbatch or run.batch.microbatch
    changed = {
        "data": run.data.model_copy(update={"train": rows}),
        "batch": run.batch.model_copy(update=batch),
        "objective": ObjectiveConfig(name="vgs", detach_target=run.objective.detach_target),
        "grpo": None,
        "parallel": "ddp",
        "max_lag": 0,
    }
    return run.model_copy(
        update=changed
        | {
            name: getattr(config, name)
            for name in ("seed", "device", "threads", "sampler", "teacher")
        }
    )


def _with_prompts(train: TrainConfig, prompts: int) -> TrainConfig:
    return train.model_copy(update={"batch": train.batch.model_copy(update={"prompts": prompts})})


def _measure(
    learner: Learner, batch: list[ScoredRollout], vocab_size: int, size: int, world: World
) -> dict[str, Any]:
    """Twelve sweeps over the batch: ten deciles, the top 30 % and the low 70 %."""
    tokens = sum(one.length for one in batch)
    if tokens < DECILES:
        raise TooManyDropped(
            f"{len(batch)} scored responses have {tokens} tokens; {DECILES} deciles need more"
        )
    nowhere = torch.zeros(()), torch.zeros(())  # no term here asks which tokens are preserved
    microbatches = [
        Microbatch.of(
            batch[first : first + size],
            token_weights(
                torch.tensor([one.length for one in batch[first : first + size]]), tokens
            ),
            nowhere,
            vocab_size,
            world.device,
        )
        for first in range(0, len(batch), size)
    ]
    vds = torch.cat([torch.from_numpy(one.vds) for one in batch])
    decile = decile_of(vds)
    sets = [decile == d for d in range(DECILES)] + [decile >= TOP, decile < TOP]
    *by_decile, top, low = (
        token_geometry(learner, microbatches, vds, chosen, world)
        for chosen in tqdm(sets, unit="set", disable=None)
    )
    return {
        "tokens": tokens,
        "tokens_by_decile": [one.tokens for one in by_decile],
        "vds_low": [one.vds_low for one in by_decile],
        "vds_high": [one.vds_high for one in by_decile],
        "angles": {name: [one.angles[name] for one in by_decile] for name in PAIRS},
        "norms": {name: [one.norms[name] for one in by_decile] for name in GEOMETRY},
        "top_30": top.json(),
        "low_70": low.json(),
    }


def _write(path: Path, found: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(
        json.dumps(_plain(found), indent=2, allow_nan=False) + "\n", encoding="utf-8"
    )
    partial.replace(path)


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
