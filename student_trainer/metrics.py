"""Metrics of a run, one line a step in metrics.jsonl and the same in TensorBoard. Names are `group/name_unit`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends; a resumed run drops the lines of steps that it will do again."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        self._path = run_dir / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] <= first_step]
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line; `step` counts finished optimizer steps from 1."""
        self._file.write(json.dumps({"step": step, "unix_time_s": time.time(), **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Lines of a metrics file, oldest first; none where there is no file. A torn last line is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # what follows the last newline was cut off in writing
    return [json.loads(line) for line in whole]
