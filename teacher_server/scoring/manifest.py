"""What a folder of scores is of: data, mapping, teacher, counts. docs/scoring.md has an example."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protos.teacher_info import TeacherInfo
from teacher_server.scoring.shard import FORMAT
from teacher_server.scoring.source import Identity, differences
from teacher_server.whole_file import whole_file

NAME = "manifest.json"
PACKAGES = ("vgs-opd", "grpcio", "numpy", "pyarrow")
TEACHER = (
    *("teacher_id", "model_id", "model_revision", "model_fingerprint", "tokenizer_fingerprint"),
    *("processor_fingerprint", "text_fingerprint", "vocab_size"),
    *("engine", "dtype", "deterministic", "versions"),
)
SAME_TEACHER = (
    *("model_fingerprint", "tokenizer_fingerprint", "processor_fingerprint", "text_fingerprint"),
    *("vocab_size", "dtype", "deterministic"),
)
"""What determines scores, as in protos.score_key; names, engines and versions may change under a run."""


@dataclass(frozen=True)
class Counts:
    """Of the rows that are in shards."""

    rows: int = 0
    scored: int = 0
    failed: int = 0
    tokens: int = 0
    errors: dict[str, int] = field(default_factory=dict[str, int])
    """Failed rows by code."""


@dataclass(frozen=True)
class Manifest:
    """See the module."""

    data: Identity
    mapping: dict[str, str | None]
    text_context: str
    teacher: dict[str, Any]
    settings: dict[str, Any]
    """Which do not touch the scores."""
    started: str
    """ISO 8601, UTC."""
    ended: str | None = None
    finished: bool = False
    counts: Counts = field(default_factory=Counts)
    vds: dict[str, Any] | None = None
    """{"mean", "quantiles": {"0.7": nats}}"""
    shards: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    versions: dict[str, str] = field(default_factory=lambda: _versions())

    def write(self, folder: Path) -> None:
        """Into its file, whole or not at all."""
        values = {"format": FORMAT} | dataclasses.asdict(self)
        with whole_file(folder / NAME) as file:
            file.write(json.dumps(values, indent=1, ensure_ascii=False).encode() + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises ValueError where there is none, or one of another format."""
        path = folder / NAME
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no scores: no {NAME}; make some with teacher-server score"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            return cls(**values | {"counts": Counts(**values["counts"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no manifest of scores: {error!r}") from error

    @property
    def allow_paths_outside(self) -> bool:
        """Whether paths in rows were followed wherever they led."""
        return bool(self.settings.get("allow_paths_outside"))

    def going_on_from(self, begun: Manifest) -> Manifest:
        """The same of a run that goes on with the rows of earlier ones."""
        allowed = self.allow_paths_outside or begun.allow_paths_outside
        settings = self.settings | {"allow_paths_outside": allowed}
        return dataclasses.replace(self, started=begun.started, settings=settings)

    def disagreements(self, other: Manifest) -> list[str]:
        """In what the two are of different scores: data, mapping, text context or teacher."""
        found = [f"data: {what}" for what in differences(self.data, other.data)]
        found += [f"mapping: {what}" for what in differences(self.mapping, other.mapping)]
        if self.text_context != other.text_context:
            found.append(f"text_context was {self.text_context}, is {other.text_context}")
        known, asked = ({n: m.teacher.get(n) for n in SAME_TEACHER} for m in (self, other))
        return found + [f"teacher: {what}" for what in differences(known, asked)]


def teacher_json(info: TeacherInfo) -> dict[str, Any]:
    """Who scored."""
    return {name: getattr(info, name) for name in TEACHER}


def now() -> str:
    """For `started` and `ended`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }
