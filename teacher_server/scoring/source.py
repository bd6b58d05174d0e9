"""Where rows come from: a JSONL or Parquet file, or a data set of the Hugging Face Hub's kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from teacher_server.scoring.bad_row import BadRow

Row: TypeAlias = Mapping[str, Any]
"""Values by column."""
Identity: TypeAlias = dict[str, str | int | None]
"""What tells one state of a data set from another."""


class Source(Protocol):
    """Rows, read one after the other and never kept."""

    @property
    def identity(self) -> Identity:
        """With `kind` and `path`; everything needed to open the same data again."""
        ...

    @property
    def folder(self) -> Path | None:
        """Which paths in the rows are relative to; None where the data are in none here."""
        ...

    @property
    def columns(self) -> list[str]:
        """Of the first rows."""
        ...

    def expected_rows(self) -> int | None:
        """How many there are, or how many there seem to be by what was read; None: who knows."""
        ...

    def schema(self) -> pa.Schema | None:
        """Where the data state one."""
        ...

    def rows(
        self, first: int = 0, columns: Collection[str] | None = None
    ) -> Iterator[tuple[int, Row | BadRow]]:
        """Position, counted from 0 over all rows, and values of each row from number `first` on.

        `columns` are those that matter, None: all; more may come. Columns that a row lacks are absent or None.
        """
        ...


def open_source(
    data: str, split: str = "train", revision: str | None = None, subset: str | None = None
) -> Source:
    """A .jsonl or .parquet file, or through `datasets` a folder or an id; the last three are for these.

    Raises ValueError where there is no such thing, OSError where it can't be read.
    """
    path = Path(data)
    if path.is_file():
        if path.suffix == ".jsonl":
            from teacher_server.scoring.jsonl_source import JsonlSource

            return JsonlSource(path)
        if path.suffix == ".parquet":
            from teacher_server.scoring.parquet_source import ParquetSource

            return ParquetSource(path)
        raise ValueError(f"{data} ends in {path.suffix!r}; give a .jsonl or .parquet file")
    if not path.is_dir() and (path.suffix or data.startswith((".", "/", "~"))):
        raise ValueError(
            f"no data at {data}; give a .jsonl or .parquet file, a folder, or the id of a data set on the Hub"
        )
    from teacher_server.scoring.hub_source import HubSource

    return HubSource(data, split, revision, subset)


def chosen_rows(
    source: Source, chosen: Collection[int], columns: Collection[str] | None = None
) -> Iterator[tuple[int, Row | BadRow]]:
    """Those of `Source.rows` with these numbers, in the order of the data."""
    left = set(chosen)
    if not left:
        return
    for number, values in source.rows(min(left), columns):
        if number in left:
            left.remove(number)
            yield number, values
        if not left:
            return


def reopen_source(identity: Identity, data: str | None = None) -> Source:
    """The data that a manifest names, or, where they moved, `data`.

    Raises ValueError where they are not what they were.
    """
    source = open_source(
        str(data or identity["path"]),
        split=str(identity.get("split") or "train"),
        revision=_text(identity.get("revision")),
        subset=_text(identity.get("subset")),
    )
    moved = {"path", "modified_ns"} if data else set[str]()
    if differing := differences(identity, source.identity, but=moved):
        raise ValueError(
            f"{source.identity['path']} is not what was scored: {'; '.join(differing)}; score it anew, or give "
            "--data the file that was scored"
        )
    return source


def differences(
    kept: Mapping[str, Any], found: Mapping[str, Any], but: Collection[str] = ()
) -> list[str]:
    """What is not as it was, with both values."""
    names = [name for name in kept.keys() | found.keys() if name not in but]
    return [
        f"{name} was {kept.get(name)!r}, is {found.get(name)!r}"
        for name in sorted(names)
        if kept.get(name) != found.get(name)
    ]


def file_identity(kind: str, path: Path) -> Identity:
    """Of one file: its size and the time of its last change stand for its content."""
    state = path.stat()
    return {
        "kind": kind,
        "path": str(path.resolve()),
        "bytes": state.st_size,
        "modified_ns": state.st_mtime_ns,
    }


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)
