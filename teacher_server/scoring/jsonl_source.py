"""Rows of a JSONL file, read line by line."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow as pa

from teacher_server.scoring.bad_row import UNREADABLE_ROW, BadRow
from teacher_server.scoring.source import Identity, Row, file_identity

PEEKED = 100
"""Rows that say which columns there are."""


class JsonlSource:
    """See Source. Blank lines are no rows."""

    def __init__(self, path: Path) -> None:
        self.identity: Identity = file_identity("jsonl", path)
        self.folder: Path | None = path.parent
        self._path = path
        self._bytes_read = self._rows_read = 0
        peeked = [row for _, row in itertools.islice(self.rows(), PEEKED)]
        readable = [row for row in peeked if not isinstance(row, BadRow)]
        if not readable:
            raise ValueError(
                f"{path} has no rows" if not peeked else f"{path} is no JSONL: {peeked[0]}"
            )
        self.columns = list(dict.fromkeys(name for row in readable for name in row))

    def expected_rows(self) -> int | None:
        """By the length of those read so far."""
        if not self._bytes_read:
            return None
        return round(int(self.identity["bytes"] or 0) * self._rows_read / self._bytes_read)

    def schema(self) -> pa.Schema | None:
        """JSONL states none."""
        return None

    def rows(
        self, first: int = 0, columns: Collection[str] | None = None
    ) -> Iterator[tuple[int, Row | BadRow]]:
        """See Source."""
        self._bytes_read = self._rows_read = 0
        with self._path.open("rb") as file:
            for (
                line
            ) in file:  # only a newline ends a row: texts may hold other separators of Unicode
                self._bytes_read += len(line)
                if not line.strip():
                    continue
                self._rows_read += 1
                if self._rows_read > first:
                    yield self._rows_read - 1, _read(line)


def _read(line: bytes) -> Row | BadRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(UNREADABLE_ROW, f"the line is not JSON: {error}")
    if not isinstance(row, dict):
        return BadRow(UNREADABLE_ROW, f"the line is a {type(row).__name__}, not an object")
    return row
