"""A folder that one process writes to, and whose files are there after a loss of power."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def lock_file(path: Path, in_use: str) -> BinaryIO:
    """The file at `path`, locked until it is closed or the process ends.

    Raises BlockingIOError, with `in_use` as its text, where another process has it.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(in_use) from error
    except BaseException:
        file.close()
        raise
    return file


def sync_folder(folder: Path) -> None:
    """Let the name of a new file outlive a loss of power, where the file system can do that."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
