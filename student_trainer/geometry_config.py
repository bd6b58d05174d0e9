"""Settings of `student-trainer geometry`. What is not said here is as in the run's config.toml. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from student_trainer.sampler_config import SamplerConfig, TransformersSamplerConfig
from student_trainer.settings import Settings
from student_trainer.teacher_config import TeacherConfig


class GeometryConfig(Settings):
    """Angles between the gradients of the language, visual and standard terms by decile of VDS, and their norms."""

    run: Path = Path()
    """The run's folder; geometry.json is written there."""
    checkpoint: str = "last"
    """Whose gradients: "last", "best", or the name of a checkpoint such as step-000100."""
    data: str | None = None
    """Rows to ask; None: the run's data.validation."""
    limit: int | None = Field(default=256, ge=1)
    """Questions, drawn from the rows by the seed; None: all."""
    responses_per_prompt: int = Field(default=1, ge=1)
    """Answers sampled to each."""
    seed: int = 0
    """Of which questions, and of sampling."""
    microbatch: int | None = Field(default=None, ge=1)
    """Responses in one forward and backward pass; None: as in the run."""
    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda"; the run's unless it is said."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads; the run's unless it is said."""
    sampler: tyro.conf.AvoidSubcommands[SamplerConfig] = TransformersSamplerConfig()
    """How the student answers; the run's unless it is said."""
    teacher: TeacherConfig = TeacherConfig()
    """Who scores the answers; the run's unless it is said."""
