"""Rows of scored data that are worth keeping, as a Parquet file that stands alone: `teacher-server select`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from teacher_server.scoring.config import By, SelectConfig
from teacher_server.scoring.kept_rows import write_kept_rows
from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.shard import SHARE, shards_in
from teacher_server.scoring.source import reopen_source

COLUMNS: dict[By, str] = {
    "mean": "vds_mean",
    "max": "vds_max",
    "p90": "vds_p90",
    "share": SHARE,
    "gain": "sequence_gain",
}
Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """What was kept."""

    rows: Rows
    """i64 [K], ascending."""
    values: Values
    """f64 [K], the summary that chose them."""
    scored: int
    """Rows that had scores."""
    failed: int
    """Rows that had none; they are never kept."""


def select(
    folder: str | Path,
    *,
    out: str | Path,
    keep_top: float | None = None,
    keep_bottom: float | None = None,
    min: float | None = None,
    max: float | None = None,
    by: By = "mean",
    data: str | None = None,
) -> Selection:
    """Keep rows by a summary of their VDS, and write them to `out`, as they are in the data.

    `keep_top` or `keep_bottom` keeps ceil(share * scored rows), of equal ones those that come first; `min` and `max`
    are bounds that a kept row may reach. Raises ValueError where the scores are unfinished or the data are not there.
    """
    return run_selection(
        SelectConfig(
            folder=Path(folder),
            out=Path(out),
            by=by,
            keep_top=keep_top,
            keep_bottom=keep_bottom,
            min=min,
            max=max,
            data=data,
        )
    )


def run_selection(config: SelectConfig) -> Selection:
    """See `select`."""
    manifest = Manifest.read(config.folder)
    if not manifest.finished:
        raise ValueError(
            f"the scores in {config.folder} are not finished; end the run with teacher-server score --resume"
        )
    rows, values, failed = _summaries(config.folder, COLUMNS[config.by])
    kept = kept_places(values, config)
    selection = Selection(rows[kept], values[kept], len(rows), failed)
    source = reopen_source(manifest.data, config.data)
    image_column = manifest.mapping["image_column"]
    write_kept_rows(
        source,
        selection.rows,
        config.out,
        image_column if image_column in source.columns else None,
        (f"vds_{config.by}", selection.values),
        manifest.allow_paths_outside,
    )
    return selection


def kept_places(values: Values, config: SelectConfig) -> npt.NDArray[np.int64]:
    """Ascending places in f64 [N] of the values that are kept."""
    kept = np.ones(len(values), np.bool_)
    if config.min is not None:
        kept &= values >= config.min
    if config.max is not None:
        kept &= values <= config.max
    share = config.keep_top if config.keep_top is not None else config.keep_bottom
    if share is not None:
        signed = -values if config.keep_top is not None else values
        # The product may come out a trifle above the whole number that is meant.
        count = math.ceil(round(share * len(values), 9))
        best = np.zeros(len(values), np.bool_)
        best[np.argsort(signed, kind="stable")[:count]] = True
        kept &= best
    return np.flatnonzero(kept)


def _summaries(folder: Path, column: str) -> tuple[Rows, Values, int]:
    """Row numbers i64 [N] and values f64 [N] of the rows that have one, and how many have none."""
    tables = [shard.read(["row", column]) for shard in shards_in(folder)]
    if not tables:
        raise ValueError(f"{folder} has no rows")
    table = pa.concat_tables(tables)
    scored: Any = table.filter(table[column].is_valid())
    return (
        scored["row"].to_numpy().astype(np.int64),
        scored[column].to_numpy().astype(np.float64),
        table.num_rows - scored.num_rows,
    )
