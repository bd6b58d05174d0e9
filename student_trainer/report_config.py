"""Settings of `student-trainer report`. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import tyro
from pydantic import Field

from student_trainer.settings import Settings


class ReportConfig(Settings):
    """Compare runs on one page that needs nothing but itself."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = Field(default=())
    """Folders of runs, finished or under way."""
    out: Path | None = None
    """File to write; None: report.html in the folder that all runs lie in, or in the run itself where it is one."""
