"""Rows of a data set on the Hugging Face Hub, or of a folder, streamed through `datasets`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.source import Identity, Row


class HubSource:
    """See Source. Images come as they are stored, never decoded."""

    def __init__(self, name: str, split: str, revision: str | None, subset: str | None) -> None:
        """Raises ValueError where `datasets` is missing or finds nothing."""
        folder = Path(name)
        self.folder: Path | None = folder if folder.is_dir() else None
        path = str(folder.resolve()) if folder.is_dir() else name
        resolved = None if folder.is_dir() else _resolved(name, revision)
        self._stream = _load(path, split, resolved or revision, subset)
        self.identity: Identity = {
            "kind": "hub",
            "path": path,
            "subset": subset,
            "split": split,
            "revision": resolved or revision,
        }
        if folder.is_dir():
            self.identity |= _folder_identity(folder)
        self.columns: list[str] = list(self._stream.column_names or next(iter(self._stream), {}))
        if not self.columns:
            raise ValueError(f"{name}, split {split!r}, has no rows")

    def expected_rows(self) -> int | None:
        """As the data set's card says, if it does."""
        splits = getattr(self._stream.info, "splits", None) or {}
        found = splits.get(self.identity["split"])
        return getattr(found, "num_examples", None) or None

    def schema(self) -> pa.Schema | None:
        """Of the features, where they are known."""
        features = self._stream.features
        return None if features is None else features.arrow_schema

    def rows(
        self, first: int = 0, columns: Collection[str] | None = None
    ) -> Iterator[tuple[int, Row | BadRow]]:
        """See Source."""
        stream = self._stream
        if columns is not None:
            stream = stream.select_columns([name for name in self.columns if name in columns])
        if first:
            stream = stream.skip(first)
        yield from enumerate(stream, start=first)


def _load(path: str, split: str, revision: str | None, subset: str | None) -> Any:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is no .jsonl or .parquet file, and other data are read through `datasets`: pip install "
            '"vgs-opd[score,hub]"'
        ) from error
    if (Path(path) / "state.json").is_file() or (Path(path) / "dataset_dict.json").is_file():
        loaded: Any = datasets.load_from_disk(path)
        if isinstance(loaded, datasets.DatasetDict):
            if split not in loaded:
                known = ", ".join(map(str, loaded))
                raise ValueError(f"{path} has no split {split!r}; it has {known}")
            loaded = loaded[split]
        stream = loaded.to_iterable_dataset()
    else:
        try:
            stream = datasets.load_dataset(
                path, subset, split=split, revision=revision, streaming=True
            )
        except (FileNotFoundError, ConnectionError, DatasetsError) as error:
            raise ValueError(f"can't open the data set {path!r}: {error}") from error
    return stream.decode(False)


def _resolved(name: str, revision: str | None) -> str | None:
    """The commit that a branch or tag stands for now: a resumed run must not read another one."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ModuleNotFoundError:
        return None  # `datasets`, which brings it, is told to be missing
    try:
        return HfApi().dataset_info(name, revision=revision, timeout=30).sha
    except (OSError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise ValueError(f"can't find the data set {name!r} on the Hub: {error}") from error


def _folder_identity(folder: Path) -> Identity:
    """Files, their sizes and the latest change: enough to tell that something was added or rewritten."""
    states = [path.stat() for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "files": len(states),
        "bytes": sum(state.st_size for state in states),
        "modified_ns": max((state.st_mtime_ns for state in states), default=0),
    }
