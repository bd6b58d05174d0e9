"""What a run has left in its folder: settings, metrics, geometry. Imports no torch.

config.toml  metrics.jsonl  geometry.json  checkpoints/  tensorboard/  trace-0.json
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from student_trainer.config import TrainConfig
from student_trainer.metrics import FILE as METRICS
from student_trainer.metrics import read_metrics
from student_trainer.run_config import FILE as SETTINGS

GEOMETRY = "geometry.json"


@dataclass(frozen=True)
class RunFolder:
    """A run by its folder. Whatever can't be read raises ValueError with the file's name."""

    path: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """config.toml as it stands; {} without one."""
        path = self.path / SETTINGS
        try:
            return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{path} is no TOML: {error}") from error

    @property
    def config(self) -> TrainConfig:
        """What the run was started with."""
        if not (self.path / SETTINGS).is_file():
            raise ValueError(
                f"{self.path} holds no run: it has no {SETTINGS}; give the folder that --run-dir named"
            )
        return TrainConfig.model_validate(self.settings)

    @cached_property
    def curve(self) -> list[dict[str, float]]:
        """Lines of metrics.jsonl, at least one."""
        path = self.path / METRICS
        if not path.is_file():
            what = f"has no {METRICS}" if self.path.is_dir() else "is no folder"
            raise ValueError(
                f"{self.path} holds no run: it {what}; give the folder that --run-dir named"
            )
        try:
            lines = read_metrics(path)
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if not lines:
            raise ValueError(f"{path} is empty: the run has not finished a step yet")
        return lines

    @cached_property
    def geometry(self) -> dict[str, Any] | None:
        """What `student-trainer geometry` measured; None where nobody did."""
        path = self.path / GEOMETRY
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}; measure again") from error
