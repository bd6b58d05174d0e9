"""The folder that scores go to: its shards, its manifest, its kept answers, and one process at a time."""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from teacher_server.scoring.answer_store import AnswerStore
from teacher_server.scoring.manifest import NAME, Counts, Manifest, now
from teacher_server.scoring.row_result import RowResult
from teacher_server.scoring.shard import Shard, fill_shares, shards_in, write_shard
from teacher_server.scoring.vds_quantiles import VdsCounts, vds_quantiles
from teacher_server.scoring.whole_file import remove_unfinished


class ScoreFolder:
    """Use as a context manager: it is locked until the context ends."""

    def __init__(self, path: Path, manifest: Manifest, *, resume: bool) -> None:
        """Begin, or go on where `resume` says so.

        Raises ValueError where the folder holds scores and `resume` is not set, or holds those of other data, mapping,
        text context or teacher than `manifest`; BlockingIOError where another process uses it.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = _locked(path)
        try:
            self.manifest = self._agreed(manifest, resume)
            remove_unfinished(path)
            self._shards = shards_in(path)
            self._counts = VdsCounts()
            self.counts = Counts()
            for shard in self._shards:
                self._count(shard)
            self.answers = AnswerStore(path / ".answers")
            self.answers.forget_before(self.next_row)
            self._write_manifest()
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> ScoreFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.answers.close()
            if not self.manifest.finished:
                self._write_manifest()
        finally:
            self._lock.close()

    @property
    def next_row(self) -> int:
        """The first that is in no shard."""
        return self._shards[-1].end_row if self._shards else 0

    def add(self, results: Sequence[RowResult]) -> None:
        """The next rows, in order, as a shard; their answers are forgotten."""
        shard = write_shard(self.path, len(self._shards), results)
        self._shards.append(shard)
        self._count(shard)
        self.answers.forget_before(shard.end_row)

    def finish(self) -> None:
        """All rows are in: quantiles, then every row's share of tokens above the 0.7 one, then the manifest.

        An interruption does no harm: the same is done again.
        """
        quantiles = vds_quantiles(self._counts, (shard.vds() for shard in self._shards))
        if quantiles:
            for shard in self._shards:
                fill_shares(shard, quantiles[0.7])
        self.answers.remove()
        self.manifest = replace(
            self.manifest,
            finished=True,
            ended=now(),
            vds={
                "mean": self._counts.mean,
                "quantiles": {f"{q:g}": value for q, value in quantiles.items()},
            },
        )
        self._write_manifest()

    def _agreed(self, manifest: Manifest, resume: bool) -> Manifest:
        if not (self.path / NAME).exists():
            if any(self.path.glob("part-*.parquet")):
                raise ValueError(f"{self.path} has part files and no {NAME}; give an empty folder")
            return manifest
        kept = Manifest.read(self.path)
        if not resume:
            raise ValueError(
                f"{self.path} holds scores already; say --resume to go on with them, or give another folder"
            )
        if differing := kept.disagreements(manifest):
            raise ValueError(
                f"{self.path} was begun otherwise: {'; '.join(differing)}; go on as it was begun, or give another "
                "folder"
            )
        return replace(manifest, started=kept.started)

    def _count(self, shard: Shard) -> None:
        """Add what a shard holds to the counts and to the manifest's list."""
        self._counts.add(shard.vds())
        table = shard.read(["tokens", "error_code"])
        codes = table["error_code"]
        failed = len(codes) - codes.null_count
        tokens = int(table["tokens"].fill_null(0).to_numpy().sum(dtype=np.int64))
        errors = Counter(self.counts.errors)
        errors.update(code for code in codes.to_pylist() if code is not None)
        self.counts = Counts(
            self.counts.rows + shard.rows,
            self.counts.scored + shard.rows - failed,
            self.counts.failed + failed,
            self.counts.tokens + tokens,
            dict(errors),
        )

    def _write_manifest(self) -> None:
        shards = [
            {"file": shard.path.name, "first_row": shard.first_row, "rows": shard.rows}
            for shard in self._shards
        ]
        self.manifest = replace(self.manifest, counts=self.counts, shards=shards)
        self.manifest.write(self.path)


def _locked(folder: Path) -> BinaryIO:
    file = (folder / ".lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(
            f"another process writes scores into {folder}; wait for it, or give another folder"
        ) from error
    return file
