"""Files that are there whole or not at all, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from protos.folder import sync_folder

UNFINISHED = ".unfinished"
"""Ends the name of a file that is being written; what has it after a crash is nobody's."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the context ends well, and else leaves no trace."""
    partial = path.with_name(f".{path.name}{UNFINISHED}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_unfinished(folder: Path) -> None:
    """What a killed process left behind."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
