"""The folder that scores go to: its shards, its manifest, its kept answers, and one process at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from protos.folder import lock_file
from teacher_server.scoring.answer_store import AnswerStore
from teacher_server.scoring.manifest import NAME, Counts, Manifest, now
from teacher_server.scoring.row_result import RowResult
from teacher_server.scoring.shard import Shard, fill_shares, replace_rows, shards_in, write_shard
from teacher_server.scoring.vds_quantiles import VdsCounts, vds_quantiles
from teacher_server.whole_file import remove_unfinished


class ScoreFolder:
    """Use as a context manager: it is locked until the context ends."""

    def __init__(
        self, path: Path, manifest: Manifest, *, resume: bool, retry_failed: bool = False
    ) -> None:
        """Begin, or go on where `resume` says so. `retry_failed` keeps answers to rows that failed before.

        Raises ValueError where the folder holds scores and `resume` is not set, or holds those of other data, mapping,
        text context or teacher than `manifest`; BlockingIOError where another process uses it.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = lock_file(
            path / ".lock",
            f"another process writes scores into {path}; wait for it, or give another folder",
        )
        try:
            begun = self._begun(manifest, resume)
            self._of_this_run = manifest.going_on_from(begun) if begun else manifest
            remove_unfinished(path)
            self._shards = shards_in(path)
            self._count_all()
            self.answers = AnswerStore(path / ".answers")
            if not retry_failed:
                self.answers.forget_before(self.next_row)
            if begun is not None and begun.finished:
                self.manifest = begun  # until there is work to do
            else:
                self.manifest = self._of_this_run
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
                self._count_replaced()
                self._write_manifest()
        finally:
            self._lock.close()

    @property
    def next_row(self) -> int:
        """The first that is in no shard."""
        return self._shards[-1].end_row if self._shards else 0

    def failed_rows(self) -> list[int]:
        """Numbers of the rows that are in shards without scores, ascending."""
        tables = [shard.read(["row", "error_code"]) for shard in self._shards]
        failed = (table.filter(table["error_code"].is_valid()) for table in tables)
        return [row for table in failed for row in table["row"].to_pylist()]

    def replace(self, results: Sequence[RowResult]) -> None:
        """Other results for rows that are in shards; their shards are written again."""
        self._begin_work()
        self._replaced = True
        for shard in self._shards:
            within = [r for r in results if shard.first_row <= r.row < shard.end_row]
            if within:
                replace_rows(shard, within)

    def add(self, results: Sequence[RowResult]) -> None:
        """The next rows, in order, as a shard; their answers are forgotten."""
        self._begin_work()
        shard = write_shard(self.path, len(self._shards), results)
        self._shards.append(shard)
        self._count(shard)
        self.answers.forget_before(shard.end_row)

    def finish(self) -> None:
        """All rows are in: quantiles, then every row's share of tokens above the 0.7 one, then the manifest.

        An interruption does no harm: the same is done again.
        """
        self._count_replaced()
        quantiles = vds_quantiles(self._counts, (shard.vds() for shard in self._shards))
        if quantiles:
            for shard in self._shards:
                fill_shares(shard, quantiles[0.7])
        self.answers.remove()
        self.manifest = replace(
            self._of_this_run,
            finished=True,
            ended=now(),
            vds={
                "mean": self._counts.mean,
                "quantiles": {f"{q:g}": value for q, value in quantiles.items()},
            },
        )
        self._write_manifest()

    def _begin_work(self) -> None:
        """What was finished is so no more, before anything of it changes."""
        if self.manifest.finished:
            self.manifest = self._of_this_run
            self._write_manifest()

    def _begun(self, manifest: Manifest, resume: bool) -> Manifest | None:
        """What an earlier run left, which `manifest` may go on with; None: nothing."""
        if not (self.path / NAME).exists():
            if any(self.path.glob("part-*.parquet")):
                raise ValueError(f"{self.path} has part files and no {NAME}; give an empty folder")
            return None
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
        return kept

    def _count_all(self) -> None:
        self._counts, self.counts, self._replaced = VdsCounts(), Counts(), False
        for shard in self._shards:
            self._count(shard)

    def _count_replaced(self) -> None:
        """Sums of floats can't be corrected: where rows were replaced, all are counted anew."""
        if self._replaced:
            self._count_all()

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
