"""Rows that failed, by code, with the first of each."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

FIRST = 5
"""Rows shown of each code."""
LONGEST = 400
"""Characters of a message."""
COLUMNS = ["row", "id", "error_code", "error"]


@dataclass
class FailedRow:
    """One of the first."""

    row: int
    id: str
    error: str


@dataclass
class ErrorTally:
    """Level in memory: codes are few."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    first: dict[str, list[FailedRow]] = field(default_factory=dict[str, list[FailedRow]])

    def add(self, batch: pa.RecordBatch) -> None:
        """A batch with COLUMNS."""
        failed = batch.select(COLUMNS).filter(batch["error_code"].is_valid())
        for row in failed.to_pylist():
            code = row["error_code"]
            self.counts[code] = self.counts.get(code, 0) + 1
            first = self.first.setdefault(code, [])
            if len(first) < FIRST:
                first.append(FailedRow(row["row"], row["id"], (row["error"] or "")[:LONGEST]))
