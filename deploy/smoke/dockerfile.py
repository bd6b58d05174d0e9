"""What an image starts and how it is stopped, read from its Dockerfile."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

STAGE = re.compile(r"FROM \S+(?: AS (\S+))?$")


@dataclass(frozen=True)
class DockerImage:
    """Of one target."""

    entrypoint: tuple[str, ...]
    stop_signal: str


def read_image(path: Path, target: str) -> DockerImage:
    """Raises ValueError where the file has no such stage."""
    stage: str | None = None
    instructions: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if match := STAGE.match(line):
            stage = match[1]
        if stage == target:
            instruction, _, rest = line.partition(" ")
            instructions[instruction] = rest
    if not instructions:
        raise ValueError(f"{path} has no stage {target!r}")
    return DockerImage(
        tuple(json.loads(instructions.get("ENTRYPOINT", "[]"))),
        instructions.get("STOPSIGNAL", "SIGTERM"),
    )
