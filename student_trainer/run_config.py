"""config.toml of a run folder: the resolved settings, readable by --config again, and who the teacher was."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence

import tomli_w

from protos.teacher_info import TeacherInfo
from student_trainer.config import TrainConfig

FILE = "config.toml"
FREE_TO_CHANGE = {
    "run_dir",
    "steps",
    "device",
    "parallel",
    "threads",
    "resume",
    "checkpoint",
    "eval",
    "trackers",
    "geometry_every",
    "trace",
}
"""Settings that a resumed run may change: they don't enter what the parameters become but by rounding."""
FREE_WITHIN = {
    "sampler": {"address", "timeout_s", "connect_timeout_s"},
    "batch": {"microbatch", "chunk_rows"},
    "student": {"activation_checkpointing", "packing", "compile"},
}
"""The same of settings that are not free as a whole: where, in how much memory, how fast."""
KEPT_WITHIN = {"teacher": {"k", "dtype"}}
"""What is not free of a setting that is: which scores are asked for."""


def write_config(
    config: TrainConfig, teachers: Sequence[TeacherInfo], processor_fingerprint: str
) -> None:
    """Write `run_dir`/config.toml; `processor_fingerprint` is the student's."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    header = "".join(_line(teacher, processor_fingerprint) for teacher in teachers)
    values = config.model_dump(mode="json", by_alias=True, exclude_none=True)  # TOML has no null
    (config.run_dir / FILE).write_text(header + tomli_w.dumps(values), encoding="utf-8")


def _line(teacher: TeacherInfo, processor_fingerprint: str) -> str:
    name = json.dumps(
        f"{teacher.model_id} {teacher.model_fingerprint[:12]} as {teacher.teacher_id}"
    )
    same = teacher.processor_fingerprint == processor_fingerprint
    return (
        f"# teacher: {name}, engine {teacher.engine}, {teacher.dtype}, "
        f"{'the same' if same else 'ANOTHER'} image processor\n"
    )


def refuse_changes(config: TrainConfig) -> None:
    """Raise ValueError where a run would be resumed with settings that change what it is."""
    path = config.run_dir / FILE
    if not path.is_file():
        return
    before = TrainConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    changed = [
        name
        for name in TrainConfig.model_fields
        if name not in FREE_TO_CHANGE and _substance(before, name) != _substance(config, name)
    ]
    if changed:
        raise ValueError(
            f"{path} was made with other settings of {', '.join(changed)}: resume with the same ones "
            f"(--config {path}), or start a new run with another --run-dir"
        )


def _substance(config: TrainConfig, name: str) -> object:
    """A setting without what is free to change in it."""
    value = getattr(config, name)
    if name in FREE_WITHIN:
        return value.model_dump(exclude=FREE_WITHIN[name])
    if name in KEPT_WITHIN:
        return value.model_dump(include=KEPT_WITHIN[name])
    return value
