"""What the explorer page offers to look at, from a file that the operator names."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

MOST = 50
MAX_IMAGE_BYTES = 2**20


class Example(BaseModel):
    """A question about a picture, with an answer to score."""

    name: str
    image: str
    """A data URI."""
    question: str
    answer: str


class Examples(BaseModel):
    """All of them."""

    examples: list[Example]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = ""
    image: str
    question: str
    answer: str


def read_examples(path: Path) -> tuple[Example, ...]:
    """From JSONL with image (a path beside the file), question, answer and perhaps a name in each line.

    Raises ValueError or OSError that names the line.
    """
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if len(lines) > MOST:
        raise ValueError(f"{path} has {len(lines)} examples, the page shows {MOST} at most")
    return tuple(_read(path, i, line) for i, line in enumerate(lines, 1))


def _read(path: Path, number: int, line: str) -> Example:
    try:
        row = _Row.model_validate(json.loads(line))
    except (ValidationError, json.JSONDecodeError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ValueError(
            f"{path} line {number}: {said}; write image, question and answer, all texts"
        ) from error
    data = (path.parent / row.image).read_bytes()
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(
            f"{path} line {number}: {row.image} has {len(data)} bytes, the limit is {MAX_IMAGE_BYTES}; scale it down"
        )
    return Example(
        name=row.name or row.question,
        image=f"data:image/{_kind(data)};base64,{base64.b64encode(data).decode()}",
        question=row.question,
        answer=row.answer,
    )


def _kind(data: bytes) -> str:
    if data.startswith(b"\xff\xd8"):
        return "jpeg"
    return "png" if data.startswith(b"\x89PNG") else "webp"
