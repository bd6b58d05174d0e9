"""What sampler, teacher and learner did when: seconds by step for the metrics, spans for a Perfetto trace.

Spans are in the Trace Event Format, which ui.perfetto.dev and chrome://tracing read. They are written as they come, as
a JSON array whose last bracket the format lets one leave out: a run that is killed leaves a trace too.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGES = ("sampler", "teacher", "learner", "waiting")
"""Tracks of the trace; "waiting" is the loop's own, for whichever stage it stands still."""


class StageClock:
    """Sums seconds by name until they are taken; writes every span where a trace is wanted. Threads may share it."""

    def __init__(self, trace: Path | None = None, rank: int = 0) -> None:
        """`trace`: file to write spans to, in place of an older one."""
        self._rank = rank
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}
        self._spans = 0
        self._file = None
        if trace is not None:
            trace.parent.mkdir(parents=True, exist_ok=True)
            self._file = trace.open("w", encoding="utf-8")
            self._file.write("[\n" + json.dumps(self._named("process_name", 0, f"rank {rank}")))
            self._write(*(self._named("thread_name", i, name) for i, name in enumerate(STAGES)))

    def close(self) -> None:
        """End the trace; spans that end later are not in it."""
        with self._lock:
            if self._file is not None:
                self._file.write("\n]\n")
                self._file.close()
                self._file = None

    @contextlib.contextmanager
    def time(self, name: str, stage: str, **about: float | str) -> Iterator[None]:
        """Count a block under `time/<name>_s`, and show it on a stage's track."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            length_s = time.monotonic() - started_s
            shown = {"ph": "X", "dur": length_s * 1e6, "args": about}
            with self._lock:
                key = f"time/{name}_s"
                self._sums[key] = self._sums.get(key, 0.0) + length_s
                self._write(self._event(name, stage, started_s) | shown)

    def overlapping(self, name: str, stage: str, started_s: float, **about: float | str) -> None:
        """Show what began at `started_s` (of time.monotonic) and ends now; others of its kind may run meanwhile."""
        now_s = time.monotonic()
        with self._lock:
            self._spans += 1
            both = {"cat": stage, "id": self._spans}
            begun = self._event(name, stage, started_s) | both | {"ph": "b", "args": about}
            self._write(begun, self._event(name, stage, now_s) | both | {"ph": "e"})

    def take(self) -> dict[str, float]:
        """Seconds by metric since the last call; names that stood there once stay, with 0."""
        with self._lock:
            taken = dict(self._sums)
            self._sums = dict.fromkeys(self._sums, 0.0)
            return taken

    def _write(self, *events: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write("".join(",\n" + json.dumps(event) for event in events))

    def _event(self, name: str, stage: str, at_s: float) -> dict[str, Any]:
        track = STAGES.index(stage)
        return {"name": name, "pid": self._rank, "tid": track, "ts": at_s * 1e6}

    def _named(self, kind: str, track: int, name: str) -> dict[str, Any]:
        return {"ph": "M", "name": kind, "pid": self._rank, "tid": track, "args": {"name": name}}
