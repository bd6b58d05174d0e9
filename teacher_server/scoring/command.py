"""`teacher-server score` and `teacher-server select`: what they print, and how they end."""

from __future__ import annotations

import logging
import signal
import sys

from protos.errors import DeadlineExceeded, LimitExceeded, TeacherError, Unavailable
from teacher_server.scoring.config import ScoreConfig, SelectConfig
from teacher_server.scoring.dry_run import show
from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.scoring_run import run
from teacher_server.scoring.selection import run_selection

TEACHER_REFUSES = 1
ROWS_FAILED = 3
TEACHER_AWAY = 75
"""EX_TEMPFAIL of sysexits.h: the same command with --resume may well succeed later."""
INTERRUPTED = 130


def score(config: ScoreConfig) -> int:
    """Score, or show what would be; returns the exit status: 0 where every row was scored, 3 where some failed, 75
    where the teacher stays away, full or late, 1 where it refuses, 130 where the run was interrupted.
    """
    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # As the first process of a container nothing else would end it.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if config.dry_run:
            return 0 if show(config) else ROWS_FAILED
        manifest = run(config)
    except TeacherError as error:
        print(f"teacher-server score: {error}{_kept(config)}", file=sys.stderr)
        away = isinstance(error, Unavailable | LimitExceeded | DeadlineExceeded)
        return TEACHER_AWAY if away else TEACHER_REFUSES
    except KeyboardInterrupt:
        print(f"interrupted{_kept(config)}", file=sys.stderr)
        return INTERRUPTED
    _report(manifest, config)
    return ROWS_FAILED if manifest.counts.failed else 0


def select(config: SelectConfig) -> int:
    """Select; returns the exit status 0."""
    selection = run_selection(config)
    kept, scored = len(selection.rows), selection.scored
    print(f"kept {kept} of {scored} scored rows ({selection.failed} more failed): {config.out}")
    if kept:
        values = selection.values
        print(f"{config.by} from {values.min():.6g} to {values.max():.6g}")
    return 0


def _report(manifest: Manifest, config: ScoreConfig) -> None:
    counts = manifest.counts
    print(
        f"{counts.rows} rows: {counts.scored} scored, {counts.failed} failed; {counts.tokens} tokens"
    )
    for code, rows in sorted(counts.errors.items()):
        print(f"  {rows} {code}")
    vds = manifest.vds or {}
    if vds.get("quantiles"):
        quantiles = ", ".join(f"{q} {vds['quantiles'][q]:.4g}" for q in ("0.5", "0.7", "0.9"))
        print(f"VDS in nats: mean {vds['mean']:.4g}; quantiles {quantiles}")
    print(f"scores are in {config.out}")


def _kept(config: ScoreConfig) -> str:
    return f"; what was scored is kept in {config.out}: --resume goes on" if config.out else ""


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
