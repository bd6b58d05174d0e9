"""Rows with images, a question and an answer, from JSONL or Parquet, in an order that a seed determines."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from student_trainer.data_config import DataConfig


@dataclass(frozen=True)
class Sample:
    """One question."""

    images: tuple[bytes, ...]
    """Encoded files."""
    question: str
    answer: str
    teacher: str = ""
    """Name of the one who scores it; empty where there is but one."""


class DataSet:
    """All rows of a file, in memory; images that are paths are read when their row is asked for."""

    def __init__(self, path: str | Path, config: DataConfig) -> None:
        self.path = Path(path)
        self._config = config
        self._rows = _read_rows(self.path)
        if not self._rows:
            raise ValueError(f"{self.path} has no rows")
        for name in ("question_column", "answer_column", "image_column", "teacher_column"):
            column = getattr(config, name)
            if column and not any(column in row for row in self._rows):
                known = ", ".join(self._rows[0])
                raise ValueError(
                    f"{self.path} has no column {column!r}; it has {known}: set data.{name}"
                )

    def refuse_teachers_beyond(self, known: Collection[str]) -> None:
        """Raise ValueError where a row names a teacher that is not among the `known` ones."""
        column = self._config.teacher_column
        if column is None:
            return
        for index, row in enumerate(self._rows):
            if (name := row.get(column)) is None or str(name) not in known:
                raise ValueError(
                    f"{self.path} row {index} names the teacher {name!r} in {column!r}; teacher.named has "
                    f"{', '.join(known)}"
                )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Raises ValueError where the row lacks something; who asks knows which row of which file it is."""
        row, config = self._rows[index], self._config
        for column in (config.question_column, config.answer_column, config.teacher_column):
            if column is not None and column not in row:
                raise ValueError(f"it has no {column!r}")
        try:
            images = load_images(row.get(config.image_column), self.path.parent)
        except (OSError, TypeError) as error:
            raise ValueError(f"its image: {error}") from error
        question, answer = row[config.question_column], row[config.answer_column]
        if question is None:
            raise ValueError(f"it has no question: {config.question_column!r} is null")
        teacher = str(row[config.teacher_column]) if config.teacher_column else ""
        return Sample(images, str(question), "" if answer is None else str(answer), teacher)

    def indices(self, step: int, size: int, seed: int) -> list[int]:
        """Rows of the optimizer step `step` (from 0): epochs of shuffled rows, one after the other."""
        first = step * size
        epochs = range(first // len(self), (first + size - 1) // len(self) + 1)
        order = np.concatenate(
            [np.random.default_rng([seed, epoch]).permutation(len(self)) for epoch in epochs]
        )
        offset = first - epochs[0] * len(self)
        return order[offset : offset + size].tolist()


def load_images(value: Any, folder: Path) -> tuple[bytes, ...]:
    """Encoded bytes of a row's images.

    `value` is a path relative to `folder`, encoded bytes, a `datasets.Image` struct {bytes, path}, a decoded PIL
    image (which is encoded as PNG), a list of these, or None.
    """
    if value is None:
        return ()
    if isinstance(value, bytes):
        return (value,)
    if isinstance(value, str):
        return ((folder / value).read_bytes(),)
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return (buffer.getvalue(),)
    if isinstance(value, Mapping):
        inner = value.get("bytes") or value.get("path")
        return load_images(inner, folder)
    if isinstance(value, Sequence):
        return tuple(data for one in value for data in load_images(one, folder))
    raise TypeError(
        f"an image is {type(value).__name__}; give a path, encoded bytes, a datasets.Image or a list of these"
    )


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"no data file at {path}; give the path of a .jsonl or .parquet file")
    match path.suffix:
        case ".jsonl":
            # Only a newline ends a row: strings may hold other separators of Unicode.
            with path.open(encoding="utf-8", newline="\n") as lines:
                return [
                    _read_line(path, n, line) for n, line in enumerate(lines, 1) if line.strip()
                ]
        case ".parquet":
            return pq.read_table(path).to_pylist()
        case other:
            raise ValueError(f"{path} ends in {other!r}; give a .jsonl or .parquet file")


def _read_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} line {number} is no JSON: {error.msg}, column {error.colno}"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{path} line {number} is {type(row).__name__}; a row is an object with a value for each column"
        )
    return row
