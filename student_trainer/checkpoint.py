"""What a run needs to go on exactly where it stopped: weights, optimizer, schedule, eta, step."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch

from student_trainer.learner import Learner
from student_trainer.student import Student

PREFIX = "step-"
STATE_FILE = "trainer_state.pt"
META_FILE = "trainer.json"


def save_checkpoint(folder: Path, step: int, student: Student, learner: Learner, keep: int) -> Path:
    """Write `folder`/step-<n>, a Hugging Face folder with the trainer's state, whole or not at all."""
    final = folder / f"{PREFIX}{step:06d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    student.save(partial)
    torch.save(
        {"optimizer": learner.optimizer.state_dict(), "schedule": learner.schedule.state_dict()},
        partial / STATE_FILE,
    )
    meta = {"step": step, "learner": learner.state()}
    (partial / META_FILE).write_text(json.dumps(meta, indent=2))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob(f"{PREFIX}*") if (p / META_FILE).is_file())


def restore(path: Path, learner: Learner) -> int:
    """Restore the learner of a student that was loaded from `path`; returns the optimizer steps done."""
    state = torch.load(path / STATE_FILE, weights_only=True)
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.schedule.load_state_dict(state["schedule"])
    meta = json.loads((path / META_FILE).read_text())
    learner.restore(meta["learner"])
    return int(meta["step"])
