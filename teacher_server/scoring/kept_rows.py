"""Chosen rows of the data as a Parquet file, images and all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.image_file import image_files
from teacher_server.scoring.image_folder import ImageFolder
from teacher_server.scoring.source import Source
from teacher_server.whole_file import whole_file

BATCH_ROWS, BATCH_BYTES = 256, 64 * 2**20
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""As `datasets.Image` stores it."""


def write_kept_rows(
    source: Source,
    rows: npt.NDArray[np.int64],
    out: Path,
    image_column: str | None,
    extra: tuple[str, npt.NDArray[np.float64]],
    allow_paths_outside: bool = False,
) -> None:
    """The rows with these numbers, ascending, with one column more: its name, and a value for each row.

    Where the data state no schema they are read twice. Raises ValueError where a row is no more what it was.
    """
    name, values = extra
    folder = ImageFolder(source.folder, allow_paths_outside)
    if name in source.columns:
        raise ValueError(f"the data have a column {name!r} already; rename it there")
    several = image_column is not None and _has_lists(source, rows, image_column)
    schema = _schema(source, rows, image_column, several).append(pa.field(name, pa.float64()))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        written = 0
        for batch in _batches(_kept(source, rows), folder, image_column, several):
            for row in batch:
                row[name] = float(values[written])
                written += 1
            try:
                writer.write_table(pa.Table.from_pylist(batch, schema))
            except pa.ArrowException as error:
                raise ValueError(f"rows of the data do not fit each other: {error}") from error


def _kept(source: Source, rows: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """The chosen rows' values."""
    place = 0
    if not len(rows):
        return
    for number, values in source.rows(int(rows[0])):
        if number < rows[place]:
            continue
        if number > rows[place] or isinstance(values, BadRow):
            break
        yield dict(values)
        place += 1
        if place == len(rows):
            return
    raise ValueError(f"row {rows[place]} of the data is gone; is it the file that was scored?")


def _batches(
    kept: Iterator[dict[str, Any]], folder: ImageFolder, image_column: str | None, several: bool
) -> Iterator[list[dict[str, Any]]]:
    """Rows with their images embedded, a bounded number of bytes at a time."""
    batch: list[dict[str, Any]] = []
    size = 0
    for row in kept:
        if image_column is not None:
            images = _embedded(row.get(image_column), folder)
            size += sum(len(image["bytes"]) for image in images)
            row[image_column] = images if several else (images[0] if images else None)
        batch.append(row)
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _embedded(value: Any, folder: ImageFolder) -> list[dict[str, Any]]:
    return [{"bytes": image.read(), "path": image.name} for image in image_files(value, folder)]


def _has_lists(source: Source, rows: npt.NDArray[np.int64], image_column: str) -> bool:
    """Whether any row has a list of images: then all of them get one."""
    schema = source.schema()
    if schema is not None:
        kind = schema.field(image_column).type
        return pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return any(_is_list(row.get(image_column)) for row in _kept(source, rows))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _schema(
    source: Source, rows: npt.NDArray[np.int64], image_column: str | None, several: bool
) -> pa.Schema:
    """Of the output, images as structs."""
    schema = source.schema() or _inferred(source, rows, image_column)
    if image_column is not None:
        kind = pa.list_(IMAGE) if several else IMAGE
        place = schema.get_field_index(image_column)
        schema = schema.set(place, pa.field(image_column, kind))
    # What is said of the old types (as `datasets` and pandas do) would be wrong of the new ones.
    return schema.remove_metadata()


def _inferred(source: Source, rows: npt.NDArray[np.int64], image_column: str | None) -> pa.Schema:
    """The types that all chosen rows fit, images left out."""
    schema = pa.schema([(image_column, pa.null())] if image_column else [])
    batch: list[Mapping[str, Any]] = []

    def merged() -> pa.Schema:
        try:
            names = dict.fromkeys(name for row in batch for name in row)
            found = pa.table({name: [row.get(name) for row in batch] for name in names}).schema
            return pa.unify_schemas([schema, found], promote_options="permissive")
        except pa.ArrowException as error:
            raise ValueError(
                f"rows of the data do not fit into one table: {error}; give every row the same types"
            ) from error

    for row in _kept(source, rows):
        batch.append({key: value for key, value in row.items() if key != image_column})
        if len(batch) >= BATCH_ROWS:
            schema = merged()
            batch.clear()
    return merged()
