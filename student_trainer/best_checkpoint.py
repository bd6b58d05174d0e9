"""What stands beside the numbered checkpoints: `best`, which no pruning takes, and `last`, which points to the newest.

Both are Hugging Face folders that `from_pretrained` loads; `best` has no optimizer state, since no run goes on from it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from student_trainer.student import Student
from student_trainer.world import World

BEST, LAST = "best", "last"
BEST_FILE = "best.json"


class BestCheckpoint:
    """The student with the highest accuracy on the validation rows so far; the earlier one where two are equal."""

    def __init__(self, folder: Path, world: World, step: int | None) -> None:
        """`folder` is the run's checkpoints; a run resumed after `step` steps goes on from the best that is there.

        What stands there from later steps, or from another run where this one begins (None), is removed.
        """
        self._folder = folder
        self._world = world
        if world.first:
            _mend(folder)
            left = read_best(folder)
            if left is not None and (step is None or left["step"] > step):
                shutil.rmtree(folder / BEST)
        world.wait()  # nobody looks before it is mended
        found = read_best(folder)
        self.accuracy: float | None = None if found is None else float(found["accuracy"])

    def offer(self, step: int, accuracy: float, student: Student) -> bool:
        """Keep the student as it is after `step` steps if none was better; whether it was kept.

        Called by all ranks, with the same accuracy. What stood there stays until the new one is whole.
        """
        if self.accuracy is not None and not accuracy > self.accuracy:
            return False
        self.accuracy = accuracy
        partial = self._folder / f".{BEST}.partial"
        if self._world.first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._world.wait()  # nobody writes before there is a folder
        student.save(partial)
        if self._world.first:
            about = {"step": step, "accuracy": accuracy}
            (partial / BEST_FILE).write_text(json.dumps(about, indent=2) + "\n")
            _replace(self._folder, partial)
        return True


def read_best(folder: Path) -> dict[str, Any] | None:
    """{"step", "accuracy"} of the best among a run's checkpoints; None without one."""
    path = folder / BEST / BEST_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def point_to_last(checkpoint: Path) -> None:
    """Let `last` beside `checkpoint` be a link to it: a relative one, so that the run's folder may move."""
    link = checkpoint.parent / LAST
    made = link.with_name(f".{LAST}.partial")
    made.unlink(missing_ok=True)
    made.symlink_to(checkpoint.name, target_is_directory=True)
    os.replace(made, link)


def _replace(folder: Path, partial: Path) -> None:
    """A folder can't take another's place in one move: for a moment the old one stands aside."""
    best, aside = folder / BEST, folder / f".{BEST}.aside"
    shutil.rmtree(aside, ignore_errors=True)
    if best.exists():
        os.replace(best, aside)
    os.replace(partial, best)
    shutil.rmtree(aside, ignore_errors=True)


def _mend(folder: Path) -> None:
    """Bring the old one back where a run ended in that moment."""
    best, aside = folder / BEST, folder / f".{BEST}.aside"
    if aside.exists() and not best.exists():
        os.replace(aside, best)
