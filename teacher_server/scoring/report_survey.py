"""One pass over all scored rows: everything the page says of the data set as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from teacher_server.scoring.report_errors import COLUMNS, ErrorTally
from teacher_server.scoring.report_histogram import VdsHistogram
from teacher_server.scoring.report_ranking import MEASURES, Ranking
from teacher_server.scoring.report_tokens import TokenTally
from teacher_server.scoring.shard import Shard

BATCH_ROWS = 256
SUMMARIES = ["row", *MEASURES.values()]
TOKENS = ["token_ids", "token_texts", "vds", "mm_logprobs", "text_logprobs"]


@dataclass
class Survey:
    """What `take_survey` found."""

    ranking: Ranking
    histogram: VdsHistogram = field(default_factory=VdsHistogram)
    tally: TokenTally = field(default_factory=TokenTally)
    errors: ErrorTally = field(default_factory=ErrorTally)
    rows: int = 0


def take_survey(shards: Sequence[Shard], samples: int) -> Survey:
    """Reads every column of every row, a small batch at a time."""
    survey = Survey(Ranking(samples))
    for shard in shards:
        for batch in batches(shard, [*SUMMARIES, *TOKENS, *COLUMNS[1:]]):
            survey.rows += batch.num_rows
            survey.errors.add(batch)
            survey.ranking.add(batch["row"].to_numpy(), measures_of(batch))
            vds = _flat(batch, "vds")
            gains = _flat(batch, "mm_logprobs") - _flat(batch, "text_logprobs")
            survey.histogram.add(vds, gains)
            texts = batch["token_texts"].flatten()
            survey.tally.add(_flat(batch, "token_ids"), texts, vds, gains)
    return survey


def batches(shard: Shard, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a shard. Raises ValueError where the file is damaged."""
    try:
        with pq.ParquetFile(shard.path, pre_buffer=False) as file:
            yield from file.iter_batches(BATCH_ROWS, columns=list(columns))
    except pa.ArrowException as error:
        raise ValueError(f"{shard.path} is damaged: {error}; score its rows again") from error


def measures_of(batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """f64 [R] by measure; NaN where a row has none."""
    return {
        name: batch[column].to_numpy(zero_copy_only=False).astype(np.float64)
        for name, column in MEASURES.items()
    }


def _flat(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """All rows' lists, end to end."""
    return batch[column].flatten().to_numpy(zero_copy_only=False)
