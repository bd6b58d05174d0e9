"""A file of scored rows: Parquet with zstd, rows in the order of the data. docs/scoring.md has the columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from protos.arrays import Floats
from teacher_server.scoring.row_result import RowResult
from teacher_server.scoring.summary import Summary, share_above
from teacher_server.whole_file import whole_file

FORMAT = "vgs.scores.1"
FORMAT_KEY, FIRST_ROW_KEY, Q70_KEY = b"vgs.format", b"vgs.first_row", b"vgs.q70"
SHARE = "vds_share_above_q70"
SUMMARIES = ("vds_mean", "vds_max", "vds_p90", SHARE, "sequence_gain")
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        ("token_ids", pa.list_(pa.int32())),
        ("token_texts", pa.list_(pa.string())),
        *((name, pa.list_(pa.float32())) for name in ("vds", "mm_logprobs", "text_logprobs")),
        *((name, pa.float64()) for name in SUMMARIES),
        ("tokens", pa.int32()),
        *((name, pa.string()) for name in ("error_code", "error")),
    ]
)
_NAME = re.compile(r"part-(\d{5,})\.parquet")


@dataclass(frozen=True)
class Shard:
    """A file that is there."""

    path: Path
    first_row: int
    rows: int

    @property
    def end_row(self) -> int:
        """First row of the next one."""
        return self.first_row + self.rows

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some of its columns."""
        return pq.read_table(self.path, columns=list(columns))

    def vds(self) -> Floats:
        """f32 [N], of all tokens of all its scored rows."""
        column = self.read(["vds"])["vds"].combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False)


def shard_path(folder: Path, number: int) -> Path:
    """Of the shard with this number."""
    return folder / f"part-{number:05d}.parquet"


def shards_in(folder: Path) -> list[Shard]:
    """In order. Raises ValueError where one is missing or is no shard of this format."""
    numbers = sorted(int(m[1]) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)))
    shards: list[Shard] = []
    for place, number in enumerate(numbers):
        path = shard_path(folder, number)
        shard = _opened(path)
        expected = shards[-1].end_row if shards else 0
        if number != place or shard.first_row != expected:
            raise ValueError(
                f"{path} begins with row {shard.first_row} where row {expected} was expected; a file before it is "
                "missing or of another run: score into a folder of its own"
            )
        shards.append(shard)
    return shards


def _opened(path: Path) -> Shard:
    try:
        metadata = pq.read_metadata(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file: {error}; remove it") from error
    keys = metadata.metadata or {}
    if keys.get(FORMAT_KEY) != FORMAT.encode():
        raise ValueError(f"{path} has the format {keys.get(FORMAT_KEY)}, not {FORMAT}")
    return Shard(path, int(keys[FIRST_ROW_KEY]), metadata.num_rows)


def write_shard(folder: Path, number: int, results: Sequence[RowResult]) -> Shard:
    """Consecutive rows, at least one, as one file."""
    keys = {FORMAT_KEY: FORMAT.encode(), FIRST_ROW_KEY: str(results[0].row).encode()}
    table = _table(results).replace_schema_metadata(keys)
    path = shard_path(folder, number)
    _write(path, table)
    return Shard(path, results[0].row, len(results))


def replace_rows(shard: Shard, results: Sequence[RowResult]) -> None:
    """Write the shard again with other results for some of its rows; the shares are to be filled in anew."""
    table = pq.read_table(shard.path)
    replaced = np.isin(table["row"].to_numpy(), [result.row for result in results])
    others = table.filter(pa.array(~replaced)).cast(SCHEMA)
    keys = {name: value for name, value in table.schema.metadata.items() if name != Q70_KEY}
    table = pa.concat_tables([others, _table(results)]).sort_by("row")
    _write(shard.path, table.replace_schema_metadata(keys))


def fill_shares(shard: Shard, q70: float) -> None:
    """Write the shard again with each row's share of tokens above `q70`; nothing to do where that is done."""
    stated = repr(q70).encode()
    if (pq.read_metadata(shard.path).metadata or {}).get(Q70_KEY) == stated:
        return
    table = pq.read_table(shard.path)
    shares = [
        None if vds.values is None else share_above(vds.values.to_numpy(), q70)
        for vds in table["vds"].combine_chunks()
    ]
    place = table.schema.get_field_index(SHARE)
    table = table.set_column(place, SCHEMA.field(SHARE), pa.array(shares, pa.float64()))
    _write(
        shard.path,
        table.replace_schema_metadata({**(table.schema.metadata or {}), Q70_KEY: stated}),
    )


def _write(path: Path, table: pa.Table) -> None:
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def _table(results: Sequence[RowResult]) -> pa.Table:
    summaries = [
        {}
        if result.error_code is not None
        else asdict(Summary.of(result.vds, result.mm_logprobs, result.text_logprobs))
        for result in results
    ]
    texts = [result.token_texts for result in results if result.token_texts is not None]
    values: dict[str, Any] = {
        "row": [result.row for result in results],
        "id": [result.id for result in results],
        "token_ids": _lists(results, _joined(results, "token_ids", np.dtype(np.int32))),
        "token_texts": _lists(
            results, pa.concat_arrays(texts) if texts else pa.array([], pa.string())
        ),
        **{
            name: _lists(results, _joined(results, name, np.dtype(np.float32)))
            for name in ("vds", "mm_logprobs", "text_logprobs")
        },
        **{name: [summary.get(name) for summary in summaries] for name in SUMMARIES},
        "tokens": [r.tokens if r.error_code is None else None for r in results],
        "error_code": [result.error_code for result in results],
        "error": [result.error for result in results],
    }
    arrays = [
        value if isinstance(value, pa.Array) else pa.array(value, field.type)
        for field, value in zip(SCHEMA, (values[name] for name in SCHEMA.names), strict=True)
    ]
    return pa.table(arrays, schema=SCHEMA)


def _joined(results: Sequence[RowResult], name: str, dtype: np.dtype[Any]) -> pa.Array:
    return pa.array(np.concatenate([getattr(r, name) for r in results]).astype(dtype, copy=False))


def _lists(results: Sequence[RowResult], values: pa.Array) -> pa.ListArray:
    """One list for each row, null for those that failed."""
    ends = np.cumsum([0, *(result.tokens for result in results)])
    failed = np.array([*(result.error_code is not None for result in results), False])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32(), mask=failed), values)
