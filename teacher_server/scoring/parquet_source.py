"""Rows of a Parquet file, read in small batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.source import Identity, Row, file_identity

BATCH_ROWS = 16
"""Images make rows large."""
READ_BYTES = 2**20
"""Of a column at a time: a row group's column of images may have gigabytes."""


class ParquetSource:
    """See Source."""

    def __init__(self, path: Path) -> None:
        self.identity: Identity = file_identity("parquet", path)
        self.folder: Path | None = path.parent
        self._path = path
        try:
            with self._open() as file:
                self._schema = file.schema_arrow
                metadata = file.metadata
        except pa.ArrowException as error:
            raise ValueError(f"{path} is no Parquet file: {error}") from error
        if not metadata.num_rows:
            raise ValueError(f"{path} has no rows")
        self.columns = list(self._schema.names)
        self._group_rows = [
            metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)
        ]

    def expected_rows(self) -> int | None:
        """As the file says."""
        return sum(self._group_rows)

    def schema(self) -> pa.Schema | None:
        """Of all columns."""
        return self._schema

    def rows(
        self, first: int = 0, columns: Collection[str] | None = None
    ) -> Iterator[tuple[int, Row | BadRow]]:
        """See Source."""
        number, group = 0, 0
        while group < len(self._group_rows) and number + self._group_rows[group] <= first:
            number += self._group_rows[group]
            group += 1
        read = [name for name in self.columns if columns is None or name in columns]
        with self._open() as file:
            groups = range(group, len(self._group_rows))
            for batch in file.iter_batches(BATCH_ROWS, row_groups=list(groups), columns=read):
                wanted = batch.slice(max(0, first - number))
                for offset, row in enumerate(wanted.to_pylist()):
                    yield number + batch.num_rows - wanted.num_rows + offset, row
                number += batch.num_rows

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._path, buffer_size=READ_BYTES, pre_buffer=False)
