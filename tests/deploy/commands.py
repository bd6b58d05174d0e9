"""Commands of containers, parsed by the programs that they call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from rollout_server.cli import _read_config as read_rollout_config
from student_trainer.cli import _read_config as read_train_config
from student_trainer.config import TrainConfig
from teacher_server.cli import _read_config as read_serve_config
from teacher_server.scoring.config import ScoreConfig

PROGRAMS = {"teacher-server", "student-trainer", "rollout-server", "student_trainer"}


def parsed(command: Sequence[str], files: Path) -> Any:
    """Settings of the command, and of no program that runs before it. What is in /run or /etc is in `files` here."""
    at = max(i for i, word in enumerate(command) if word in PROGRAMS)
    program, verb, *options = command[at:]
    options = [_here(option, files) for option in options]
    match program, verb:
        case "teacher-server", "serve":
            return read_serve_config(options)
        case "teacher-server", "score":
            return tyro.cli(ScoreConfig, args=options)
        case "rollout-server", "serve":
            return read_rollout_config(options)
        case "student-trainer" | "student_trainer", "train":
            return read_train_config("train", TrainConfig, options)
    raise AssertionError(f"{program} {verb} is new here")


def _here(option: str, files: Path) -> str:
    """Of a configuration file a copy that names files which are here."""
    name, equals, path = option.rpartition("=")
    place = files / path.lstrip("/") if path.startswith("/") else Path(path)
    if path.endswith(".toml") and place.is_file() and "/run/" in place.read_text():
        copy = files / f"here-{place.name}"
        copy.write_text(place.read_text().replace('"/run/', f'"{files}/run/'))
        return f"{name}{equals}{copy}"
    return f"{name}{equals}{place}" if path.startswith(("/run/", "/etc/")) else option
