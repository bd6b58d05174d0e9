"""config.toml of a run folder: the resolved settings, readable by --config again, and who the teacher was."""

from __future__ import annotations

import json
from typing import Any

from protos.teacher_info import TeacherInfo
from student_trainer.config import TrainConfig


def write_config(config: TrainConfig, teacher: TeacherInfo) -> None:
    """Write `run_dir`/config.toml."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    values = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    lines = [
        f"# teacher: {teacher.model_id} {teacher.model_fingerprint[:12]} as {teacher.teacher_id!r}, "
        f"engine {teacher.engine}, {teacher.dtype}",
        *_table(values, ""),
    ]
    (config.run_dir / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(values: dict[str, Any], name: str) -> list[str]:
    plain = {k: v for k, v in values.items() if not isinstance(v, dict)}
    lines = [f"\n[{name}]"] if name else []
    # JSON strings, numbers, booleans and flat lists are TOML too.
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _table(value, f"{name}.{key}" if name else key)
    return lines
