"""A folder as `teacher-server score` leaves it, without a teacher: words are tokens, digits hang on the picture."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from protos.arrays import as_ids
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.manifest import Counts, Manifest
from teacher_server.scoring.row_result import RowResult
from teacher_server.scoring.shard import fill_shares, shards_in, write_shard
from teacher_server.scoring.source import open_source

QUESTION = "What is the sum of the two digits?"


def picture(seed: int, size: tuple[int, int] = (32, 16)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_data(path: Path, responses: Sequence[str]) -> Path:
    """A Parquet file with a picture, a question and a response in each row."""
    images = [{"bytes": picture(row), "path": None} for row in range(len(responses))]
    columns = {"image": images, "question": [QUESTION] * len(images), "response": list(responses)}
    pq.write_table(pa.table(columns), path)
    return path


def scored_row(row: int, tokens: Sequence[str], id: str | None = None) -> RowResult:
    """Digits have a VDS of about 2 nats, other words of about 0.0001."""
    random = np.random.default_rng(row)
    digits = np.array([text.strip().isdigit() for text in tokens])
    scale = random.uniform(0.5, 1.5, len(tokens)) * np.where(digits, 2.0, 1e-4)
    mm = -random.uniform(0, 0.1, len(tokens))
    return RowResult(
        row,
        str(row) if id is None else id,
        as_ids([sum(text.encode()) % 500 for text in tokens]),
        pa.array(list(tokens), pa.string()),
        scale.astype(np.float32),
        mm.astype(np.float32),
        (mm - scale).astype(np.float32),
    )


def write_scores(
    folder: Path,
    data: Path,
    results: Sequence[RowResult],
    shard_rows: int = 50,
    finished: bool = True,
) -> Path:
    """Shards and manifest of `results`, one for each row of `data`."""
    folder.mkdir(exist_ok=True)
    for number, first in enumerate(range(0, len(results), shard_rows)):
        write_shard(folder, number, results[first : first + shard_rows])
    scored = [result for result in results if result.error_code is None]
    quantiles: dict[str, float] = {}
    if finished and scored:
        q70 = float(np.quantile(np.concatenate([r.vds for r in scored]).astype(np.float64), 0.7))
        quantiles = {"0.7": q70}
        for shard in shards_in(folder):
            fill_shares(shard, q70)
    Manifest(
        data=open_source(str(data)).identity,
        mapping=ColumnMapping().to_json(),
        text_context="drop",
        teacher={"model_id": "the/teacher", "engine": "transformers", "dtype": "float32"},
        settings={},
        started="2026-11-23T10:00:00+00:00",
        ended="2026-11-23T10:20:00+00:00" if finished else None,
        finished=finished,
        counts=Counts(len(results), len(scored), len(results) - len(scored)),
        vds={"mean": 0.3, "quantiles": quantiles} if finished else None,
    ).write(folder)
    return folder
