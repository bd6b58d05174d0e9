"""An append-only file of checksummed records.

A header, then the records: u32 length of the body, u32 crc32 of these four bytes and the body, the body. The length
is part of the checksum so that a stretch of zeros, which a loss of power can leave, is no record. All little-endian.

A body has less than 4 GiB: the largest answer within the default limits is 0.6 GiB (16,384 rows, 3,073 ids, 12 bytes).
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from protos.folder import sync_folder

HEADER = b"vgs.segment" + bytes([1])
"""Eleven letters and the version of what is inside, which changes with the record's fields."""
FRAME_BYTES = 8


class DamagedSegment(ValueError):
    """Bytes that were not written so, or not to their end."""

    def __init__(self, why: str, offset: int, *, torn: bool) -> None:
        super().__init__(why)
        self.offset = offset
        self.torn = torn
        """Whether the damage reaches the end of the file, as when a writer was killed."""


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and body of every record, in order.

    Raises DamagedSegment at the first that is not as it was written: where the next one starts is then unknown.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(HEADER))
        if start != HEADER:
            why = f"the header is {start!r} and not {HEADER!r} (is it of another version?)"
            raise DamagedSegment(why, 0, torn=HEADER.startswith(start))
        offset = len(HEADER)
        while offset < size:
            body = _read_body(file, offset, size)
            yield offset, body
            offset += FRAME_BYTES + len(body)


def read_record(path: Path, offset: int) -> bytes:
    """The body of the record at `offset`. Raises DamagedSegment where its checksum does not fit, and OSError."""
    with path.open("rb") as file:
        file.seek(offset)
        return _read_body(file, offset, os.fstat(file.fileno()).st_size)


def _read_body(file: BinaryIO, offset: int, size: int) -> bytes:
    """From `file`, which stands at `offset`. Nothing is allocated for a length that the file does not have."""
    frame = file.read(FRAME_BYTES)
    length = int.from_bytes(frame[:4], "little")
    end = offset + FRAME_BYTES + length
    if len(frame) < FRAME_BYTES or end > size:
        raise DamagedSegment("a record is cut short", offset, torn=True)
    body = file.read(length)
    if _frame(body) != frame:
        raise DamagedSegment("a record does not fit its checksum", offset, torn=end == size)
    return body


def _frame(body: bytes) -> bytes:
    length = len(body).to_bytes(4, "little")
    return length + zlib.crc32(body, zlib.crc32(length)).to_bytes(4, "little")


class SegmentWriter:
    """Appends records to one segment. A record is whole or not there; every error of the file is an OSError."""

    def __init__(self, path: Path, end: int = 0) -> None:
        """Go on at `end`, which is the file's; 0 makes a new segment."""
        self.end = end
        # A file with records that went away must not come back as zeros.
        made = 0 if end else os.O_CREAT
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | made, 0o644)
        try:
            if not end:
                self._write(HEADER)
                sync_folder(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def empty(self) -> bool:
        """Whether there is no record yet."""
        return self.end == len(HEADER)

    def append(self, body: bytes) -> int:
        """The new record's offset. It is with the operating system, and outlives this process, when this returns."""
        offset = self.end
        self._write(_frame(body) + body)
        return offset

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):  # a disk that fills up takes a part
                written += os.pwrite(self._fd, memoryview(data)[written:], self.end + written)
        except BaseException:
            # Should even this fail, the next to open the file finds a torn tail.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.end)
            raise
        self.end += len(data)

    def close(self) -> None:
        """Put everything on the disk and let go of the file.

        Only a loss of power can take what the operating system holds, and the checksums then say so. To sync every
        record would cost a wait for the disk each time, for scores that can be asked for again.
        """
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)
