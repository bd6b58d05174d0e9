"""config.toml of a run folder: the resolved settings, readable by --config again, and who the teacher was."""

from __future__ import annotations

import json

import tomli_w

from protos.teacher_info import TeacherInfo
from student_trainer.config import TrainConfig


def write_config(config: TrainConfig, teacher: TeacherInfo) -> None:
    """Write `run_dir`/config.toml."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    name = json.dumps(
        f"{teacher.model_id} {teacher.model_fingerprint[:12]} as {teacher.teacher_id}"
    )
    header = f"# teacher: {name}, engine {teacher.engine}, {teacher.dtype}\n"
    values = config.model_dump(mode="json", by_alias=True, exclude_none=True)  # TOML has no null
    (config.run_dir / "config.toml").write_text(header + tomli_w.dumps(values), encoding="utf-8")
