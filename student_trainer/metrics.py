"""Metrics of a run: one line a step in metrics.jsonl, and the same to its trackers. Names are `group/name_unit`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from student_trainer.trackers import Tracker

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends; a resumed run drops the lines of steps that it will do again."""

    def __init__(self, run_dir: Path, first_step: int, trackers: Sequence[Tracker] = ()) -> None:
        """`first_step` steps are done; `trackers` are closed with the log."""
        path = run_dir / FILE
        found = read_metrics(path) if first_step else []
        kept = [line for line in found if line["step"] <= first_step]
        self.last_kept: Mapping[str, float] = kept[-1] if kept else {}
        """Of the steps that are done already."""
        run_dir.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(map(_line, kept)))
        self._file = path.open("a", encoding="utf-8")
        self._trackers = tuple(trackers)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; `step` counts finished optimizer steps, and is 0 before the first one."""
        self._file.write(_line({"step": step, "unix_time_s": time.time(), **values}))
        self._file.flush()
        for tracker in self._trackers:
            tracker.write(step, values)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Lines of a metrics file, oldest first, null read as NaN; none where there is no file.

    A torn last line is dropped.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # what follows the last newline was cut off in writing
    return [
        {name: math.nan if value is None else value for name, value in json.loads(line).items()}
        for line in whole
    ]


def _line(values: Mapping[str, float]) -> str:
    """JSON has no NaN and no infinity: null stands for them."""
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return json.dumps(finite, allow_nan=False) + "\n"
