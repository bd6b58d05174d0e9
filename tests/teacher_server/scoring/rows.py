"""Results as a teacher's answers become them, and what stands in a folder of scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from protos.scores import Scores
from teacher_server.scoring.row_result import RowResult


def answer(seed: int, tokens: int = 5) -> Scores:
    """Mode vds_only: no support."""
    rng = np.random.default_rng(seed)
    none = np.zeros(0, np.float32)
    return Scores(
        row_splits=np.zeros(tokens + 1, np.int32),
        support_ids=np.zeros(0, np.int32),
        mm_logprobs=none,
        text_logprobs=none,
        mm_tail=np.zeros(tokens, np.float32),
        text_tail=np.zeros(tokens, np.float32),
        tail_mask=np.zeros(tokens, np.bool_),
        vds=rng.exponential(1, tokens).astype(np.float32),
        sampled_mm_logprobs=-rng.exponential(1, tokens).astype(np.float32),
        sampled_text_logprobs=-rng.exponential(3, tokens).astype(np.float32),
        response_ids=rng.integers(0, 99, tokens, dtype=np.int32),
        token_texts=tuple(f"w{i}é" for i in range(tokens)),
    )


def result(row: int, tokens: int = 5) -> RowResult:
    return RowResult.scored(row, f"id-{row}", answer(row, tokens))


def failure(row: int) -> RowResult:
    return RowResult.failed(row, str(row), "no_image", "the row has no image")


def scored_rows(folder: Path) -> list[dict[str, Any]]:
    """Every row that a folder holds, floats as their exact values."""
    files = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in files]).to_pylist()
