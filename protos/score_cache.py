"""Scores on disk, so that nothing is scored twice: kept in segments, found by `protos.score_key`.

A process killed at any moment loses no score that `put` returned for. What is damaged is never returned, but asked
for again; a disk that is full ends the keeping and not the run.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from protos.folder import lock_file
from protos.score_record import pack_record, record_key, unpack_record
from protos.scores import Scores
from protos.segment import FRAME_BYTES, DamagedSegment, SegmentWriter, read_record, read_records

log = logging.getLogger(__name__)

MAX_SEGMENT_BYTES = 64 * 2**20
"""Small enough that to sync a segment, which its last `put` waits for, takes a fraction of a second."""
_SEGMENT_NAME = re.compile(r"segment-(\d{6,})\.vgs")


@dataclass
class CacheStats:
    """Counted since the cache was opened."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    failed_writes: int = 0
    """Scores that were not kept: the write that failed, and all that came after it."""
    truncated_bytes: int = 0
    """Cut off a torn tail."""
    damaged: int = 0
    """Records, and ends of segments, that were not as they had been written."""


@dataclass(frozen=True)
class _Place:
    segment: int
    offset: int


class ScoreCache:
    """Scores by key, in `folder`. One process at a time; its threads may share it."""

    def __init__(self, folder: Path | str, *, max_segment_bytes: int = MAX_SEGMENT_BYTES) -> None:
        """Read what is there; every byte is checked once.

        A segment that would pass `max_segment_bytes` is closed and the next one begun; a larger record has one of its
        own. Raises BlockingIOError while another cache has the folder open, and OSError where it can't be opened.
        """
        self.folder = Path(folder)
        self.stats = CacheStats()
        self._max_segment_bytes = max_segment_bytes
        self._guard = threading.Lock()
        self._index: dict[bytes, _Place] = {}
        self._writer: SegmentWriter | None = None  # opened by the first put: reading needs no space
        self._segment, self._end = 1, 0  # where it goes on
        self._read_only = False
        self._closed = False
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = lock_file(
            self.folder / "lock",
            f"the score cache in {self.folder} is in use, and only one process may write to it; end the other, or give "
            "this one a folder of its own",
        )
        try:
            self._load()
        except BaseException:
            self._lock_file.close()
            raise

    def __enter__(self) -> ScoreCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def read_only(self) -> bool:
        """Whether a write failed, so that nothing more is kept."""
        return self._read_only

    def get(self, key: bytes) -> Scores | None:
        """The scores put under `key`, bit for bit, or None. Its checksum is checked again.

        Raises ValueError once the cache is closed.
        """
        with self._guard:
            self._check_open()
            place = self._index.get(key)
        scores = None if place is None else self._read(key, place)
        with self._guard:
            if scores is None:
                self.stats.misses += 1
            else:
                self.stats.hits += 1
        return scores

    def put(self, key: bytes, scores: Scores) -> None:
        """Keep `scores`. What is there stays: a key is answered alike for ever, and the file does not grow.

        A disk that fails makes the cache read-only, with a warning, and raises nothing. Raises ValueError for an array
        of a dtype that Scores do not have, and once the cache is closed.
        """
        body = pack_record(key, scores)
        with self._guard:
            self._check_open()
            if key in self._index:
                return
            if self._read_only:
                self.stats.failed_writes += 1
                return
            try:
                offset = self._writer_for(body).append(body)
            except OSError as error:
                self.stats.failed_writes += 1
                self._stop_writing(error)
                return
            self._index[key] = _Place(self._segment, offset)
            self.stats.stored += 1

    def close(self) -> None:
        """Put everything on the disk and let others have the folder; a second call does nothing."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            try:
                self._close_writer()
            except OSError as error:
                self._stop_writing(error)
            finally:
                self._lock_file.close()

    # ------------------------------------------------------------------------------------- opening

    def _load(self) -> None:
        names = (_SEGMENT_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        numbers = sorted(int(name[1]) for name in names if name)
        for number in numbers:
            self._load_segment(number, last=number == numbers[-1])

    def _load_segment(self, number: int, *, last: bool) -> None:
        self._segment, self._end = number, 0
        path = self._path(number)
        try:
            for offset, body in read_records(path):
                self._index[record_key(body)] = _Place(number, offset)
                self._end = offset + FRAME_BYTES + len(body)
        except (OSError, ValueError) as error:
            if last and isinstance(error, DamagedSegment) and error.torn:
                self._truncate(path, error.offset)
                return
            self.stats.damaged += 1
            log.error(
                "score_cache_damaged file=%s offset=%d %s: the rest of it is skipped and asked for again",
                *(path, self._end, error),
            )
            self._segment, self._end = number + 1, 0  # behind the damage nothing would be found

    def _truncate(self, path: Path, end: int) -> None:
        try:
            torn_bytes = path.stat().st_size - end
            os.truncate(path, end)
        except OSError as error:
            self._stop_writing(error)
            return
        self.stats.truncated_bytes += torn_bytes
        if torn_bytes:
            log.warning(
                "score_cache_torn_tail file=%s offset=%d truncated_bytes=%d: a writer was cut off here",
                *(path, end, torn_bytes),
            )

    # ------------------------------------------------------------------------------------- reading

    def _read(self, key: bytes, place: _Place) -> Scores | None:
        path = self._path(place.segment)
        try:
            found, scores = unpack_record(read_record(path, place.offset))
            if found != key:
                raise ValueError(f"the record is that of {found.hex()}, not of {key.hex()}")
        except (OSError, ValueError) as error:
            log.error("score_cache_damaged file=%s offset=%d %s", path, place.offset, error)
            self._forget(key, place)
            return None
        return scores

    def _forget(self, key: bytes, place: _Place) -> None:
        """Let the key be put again, and not behind the damage, where the next opening would skip it."""
        with self._guard:
            if self._index.get(key) != place:
                return
            del self._index[key]
            self.stats.damaged += 1
            if place.segment == self._segment and not self._closed:
                try:
                    self._next_segment()
                except OSError as error:
                    self._stop_writing(error)

    # ------------------------------------------------------------------------------------- writing

    def _writer_for(self, body: bytes) -> SegmentWriter:
        writer = self._writer or SegmentWriter(self._path(self._segment), self._end)
        self._writer = writer
        if writer.empty or writer.end + FRAME_BYTES + len(body) <= self._max_segment_bytes:
            return writer
        self._next_segment()
        self._writer = SegmentWriter(self._path(self._segment))
        return self._writer

    def _next_segment(self) -> None:
        self._segment, self._end = self._segment + 1, 0
        self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _stop_writing(self, error: OSError) -> None:
        if self._read_only:
            return  # said before
        self._read_only = True
        log.warning(
            "score_cache_read_only folder=%s error=%r: what is kept is still read, and nothing more is kept; make room "
            "on the disk and open the cache again",
            *(str(self.folder), error),
        )

    # --------------------------------------------------------------------------------------- other

    def _path(self, number: int) -> Path:
        return self.folder / f"segment-{number:06d}.vgs"

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the score cache in {self.folder} is closed; open another")
