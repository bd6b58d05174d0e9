"""Rows of the toy, with worked responses, and files of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from examples.digits.pictures import compose, encode_png, load_split
from examples.digits.questions import KINDS, QUESTIONS, response

TEACHER = Path("examples/digits/models/teacher")
Rows = list[dict[str, Any]]


def digit_rows(count: int, seed: int = 0, split: str = "heldout") -> Rows:
    """Pictures of digits that the models never saw, each with a question and the right answer, worked out."""
    digits = load_split(split)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        left, right = rng.integers(len(digits), size=2)
        kind = KINDS[number % len(KINDS)]
        rows.append(
            {
                "id": f"{kind}-{number}",
                "image": encode_png(compose(digits.images[left], digits.images[right])),
                "question": str(rng.choice(QUESTIONS[kind])),
                "response": response(kind, int(digits.labels[left]), int(digits.labels[right])),
            }
        )
    return rows


def as_parquet(path: Path, rows: Rows, group: int = 500) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def as_jsonl(path: Path, rows: Rows) -> Path:
    """Images as files beside it."""
    lines = []
    for number, row in enumerate(rows):
        name = f"{number}.png"
        (path.parent / name).write_bytes(row["image"])
        lines.append(json.dumps(row | {"image": name}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path
