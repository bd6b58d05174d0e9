"""What a run needs to go on exactly where it stopped: weights, optimizer, schedule, eta, step.

    step-000100/
        model.safetensors, config.json ...    an ordinary Hugging Face folder
        trainer_state/                        optimizer and averaged weights, by torch.distributed.checkpoint
        trainer.json                          the numbers beside them; written last

Tensors lie under the names of the model's parameters, whichever rank held which part: another number of ranks, or
another way to share the weights out, loads them as well.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from student_trainer.learner import Learner
from student_trainer.student import Student
from student_trainer.world import World

PREFIX = "step-"
STATE_FOLDER = "trainer_state"
META_FILE = "trainer.json"


def save_checkpoint(
    folder: Path, step: int, student: Student, learner: Learner, keep: int, world: World
) -> Path:
    """Write `folder`/step-<n>, whole or not at all. All ranks take part, and all see the same `folder`."""
    final = folder / f"{PREFIX}{step:06d}"
    partial = folder / f".{final.name}.partial"
    if world.first:
        for left in folder.glob(f".{PREFIX}*.partial"):  # by who was killed while saving
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
    world.wait()
    state = _tensors(student, learner)
    with _telling():
        student.save(partial)
        save(state, checkpoint_id=partial / STATE_FOLDER, no_dist=world.size == 1)
    if world.first:
        meta = {"step": step, "learner": learner.state()}
        (partial / META_FILE).write_text(json.dumps(meta, indent=2))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    world.wait()
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if (p / META_FILE).is_file())


def restore(path: Path, student: Student, learner: Learner, world: World) -> int:
    """Restore the learner of a `student` that was loaded from `path`; returns the optimizer steps done."""
    state = _tensors(student, learner)
    with _telling():
        load(state, checkpoint_id=path / STATE_FOLDER, no_dist=world.size == 1)
    set_optimizer_state_dict(student.model, learner.optimizer, state["optimizer"])
    meta = json.loads((path / META_FILE).read_text())
    learner.restore(meta["learner"])
    return int(meta["step"])


def _tensors(student: Student, learner: Learner) -> dict[str, Any]:
    """What is saved beside the model; averaged weights are the prior's own, so that loading changes them."""
    state: dict[str, Any] = {
        "optimizer": get_optimizer_state_dict(student.model, learner.optimizer)
    }
    averaged = learner.prior.averaged
    return state | ({"prior": averaged} if averaged else {})


@contextmanager
def _telling() -> Iterator[None]:
    """What fails in a library raises OSError, and a signal what it always does.

    torch wraps all that it meets, signals too, in a BaseException. One process that saves or loads alone means to.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except SafetensorError as error:
        raise OSError(str(error)) from error
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
        raise OSError("; ".join(map(str, causes))) from error
