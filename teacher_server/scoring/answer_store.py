"""Answers of rows whose shard is not written yet, so that a process killed at any moment loses none of them."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from protos.score_cache import ScoreCache
from protos.scores import Scores

BLOCK_ROWS = 4096
"""Rows whose answers are kept, and forgotten, together."""


class AnswerStore:
    """A score cache for each block of rows; a block is removed once all its rows are in shards."""

    def __init__(self, folder: Path, block_rows: int = BLOCK_ROWS) -> None:
        self._folder = folder
        self._block_rows = block_rows
        self._caches: dict[int, ScoreCache] = {}

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, row: int, key: bytes) -> Scores | None:
        """What was put for this row under `key`, if anything. Raises OSError where the folder can't be used."""
        return self._cache(row).get(key)

    def put(self, row: int, key: bytes, scores: Scores) -> None:
        """Keep an answer; it outlives this process when this returns, unless the disk is full."""
        self._cache(row).put(key, scores)

    def forget_before(self, row: int) -> None:
        """Rows below `row` are in shards: remove the blocks that have no others."""
        for path in list(self._folder.glob("[0-9]*")):
            if not path.name.isdecimal():
                continue  # somebody else's
            number = int(path.name)
            if (number + 1) * self._block_rows <= row:
                if number in self._caches:
                    self._caches.pop(number).close()
                shutil.rmtree(path)

    def remove(self) -> None:
        """All rows are in shards."""
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Keep what is there for the next time."""
        with contextlib.ExitStack() as stack:
            for cache in self._caches.values():
                stack.callback(cache.close)
            self._caches.clear()

    def _cache(self, row: int) -> ScoreCache:
        number = row // self._block_rows
        if number not in self._caches:
            self._caches[number] = ScoreCache(self._folder / str(number))
        return self._caches[number]
