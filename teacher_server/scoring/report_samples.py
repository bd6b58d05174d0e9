"""The samples that the page shows: read a second time, with their ranks among all rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from teacher_server.scoring.report_ranking import MEASURES, Ranks
from teacher_server.scoring.report_survey import SUMMARIES, TOKENS, batches, measures_of
from teacher_server.scoring.shard import Shard

LONGEST = 2000
"""Tokens of a sample that the page has; of longer ones it has the first."""

Sample = dict[str, Any]
"""row, id, tokens (how many), by measure `values` and `ranks`, and columns of tokens: ids, texts, vds, mm, text."""


def read_samples(shards: Sequence[Shard], rows: Collection[int]) -> list[Sample]:
    """Those of `rows`, in the order of the data. Memory: theirs, and a batch."""
    picked = np.asarray(sorted(rows), np.int64)
    samples = [
        _sample(row)
        for shard in shards
        if ((picked >= shard.first_row) & (picked < shard.end_row)).any()
        for batch in batches(shard, [*SUMMARIES, "id", "tokens", *TOKENS])
        for row in batch.filter(pa.array(np.isin(batch["row"].to_numpy(), picked))).to_pylist()
    ]
    _rank(shards, samples)
    return samples


def _rank(shards: Sequence[Shard], samples: Sequence[Sample]) -> None:
    values = {name: [sample["values"][name] for sample in samples] for name in MEASURES}
    ranks = Ranks({name: np.array(column, np.float64) for name, column in values.items()})
    for shard in shards:
        for batch in batches(shard, SUMMARIES):
            ranks.add(measures_of(batch))
    for name in MEASURES:
        for sample, rank in zip(samples, ranks.of(name), strict=True):
            sample["ranks"][name] = rank


def _sample(row: dict[str, Any]) -> Sample:
    return {
        "row": row["row"],
        "id": row["id"],
        "tokens": row["tokens"],
        "values": {name: row[column] for name, column in MEASURES.items()},
        "ranks": {},
        "ids": row["token_ids"][:LONGEST],
        "texts": row["token_texts"][:LONGEST],
        "vds": [_rounded(value) for value in row["vds"][:LONGEST]],
        "mm": [round(value, 4) for value in row["mm_logprobs"][:LONGEST]],
        "text": [round(value, 4) for value in row["text_logprobs"][:LONGEST]],
    }


def _rounded(value: float) -> float:
    """Four digits: the page shows three."""
    return float(f"{value:.4g}")
