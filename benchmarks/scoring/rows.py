"""Synthetic rows: a small picture, a question, and a response of random words that the toy's tokenizer knows."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tokenizers import Tokenizer

SIZE = (64, 32)
"""Of a picture, pixels."""
QUESTION, RESPONSE = 12, (30, 90)
"""Words, each one token; a response's are drawn evenly."""
GROUP = 1000


def write_rows(path: Path, rows: int, processor: Path) -> None:
    """A Parquet file of so many, no two alike."""
    vocabulary = Tokenizer.from_file(str(processor / "tokenizer.json")).get_vocab()
    words = sorted(word for word in vocabulary if word.isalpha())
    chance, pixels = random.Random(0), np.random.default_rng(0)
    schema = pa.schema([(n, pa.string()) for n in ("id", "question", "response")])
    schema = schema.append(pa.field("image", pa.binary()))
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, GROUP):
            numbers = range(first, min(first + GROUP, rows))
            table = {
                "id": [f"row-{number}" for number in numbers],
                "question": [_say(words, QUESTION, chance) for _ in numbers],
                "response": [_say(words, chance.randint(*RESPONSE), chance) for _ in numbers],
                "image": [_picture(pixels) for _ in numbers],
            }
            writer.write_table(pa.table(table, schema=schema))


def _say(words: list[str], count: int, chance: random.Random) -> str:
    return " ".join(chance.choices(words, k=count))


def _picture(pixels: np.random.Generator) -> bytes:
    small = Image.fromarray(pixels.integers(0, 256, (4, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize(SIZE).save(file, "JPEG")
    return file.getvalue()
