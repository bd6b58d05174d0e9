"""Settings of `student-trainer demo`: a task's files, one training setup, and the objectives to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field, model_validator

from student_trainer.config import TrainConfig
from student_trainer.objective_config import ObjectiveConfig
from student_trainer.settings import Settings


class DemoConfig(Settings):
    """Start a teacher, train one student per objective from the same start, compare them on held-out questions."""

    title: str = "Demo"
    """Headline of the report."""
    teacher_config: Path = Path("teacher.toml")
    """Configuration of the teacher's server."""
    heldout: Path = Path("heldout.parquet")
    """Rows that no choice was made on; accuracy is reported on them."""
    heldout_limit: int | None = Field(default=None, ge=1)
    """First held-out rows only."""
    examples: int = Field(default=6, ge=0)
    """Held-out questions shown in the report with every student's answer."""
    run_dir: Path = Path("runs/demo")
    """Where the runs, summary.json and report.html go; an earlier demo there is replaced."""
    train: TrainConfig = TrainConfig()
    """What all runs have in common; its objective, run folder and teacher address are set by the demo."""
    objectives: Annotated[tuple[ObjectiveConfig, ...], tyro.conf.Fixed] = ()
    """One run each, under the objective's name."""

    @model_validator(mode="after")
    def _runs_to_compare(self) -> DemoConfig:
        names = [objective.name for objective in self.objectives]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f'objectives has "{name}" {names.count(name)} times, and a run is kept under its name; leave one '
                    "of them"
                )
        if "grpo" in names:
            raise ValueError(
                'objectives has "grpo", which distils nothing, and the demo compares distillation; leave it out, and '
                "use `student-trainer train` for it"
            )
        return self
