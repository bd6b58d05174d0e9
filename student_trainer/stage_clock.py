"""What sampler, teacher and learner did when: seconds by step for the metrics, spans for a Perfetto trace.

Spans are in the Trace Event Format, which ui.perfetto.dev and chrome://tracing read.
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
    """Sums seconds by name until they are taken; keeps every span where a trace is wanted. Threads may share it."""

    def __init__(self, trace: bool = False, rank: int = 0) -> None:
        self._rank = rank
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}
        self._events: list[dict[str, Any]] | None = [] if trace else None
        self._spans = 0

    @contextlib.contextmanager
    def time(self, name: str, stage: str, **about: float | str) -> Iterator[None]:
        """Count a block under `time/<name>_s`, and show it on a stage's track."""
        started_s = time.monotonic()
        try:
            yield
        finally:
            ended_s = time.monotonic()
            with self._lock:
                key = f"time/{name}_s"
                self._sums[key] = self._sums.get(key, 0.0) + ended_s - started_s
                if self._events is not None:
                    event = {"ph": "X", "dur": (ended_s - started_s) * 1e6, "args": about}
                    self._events.append(self._event(name, stage, started_s) | event)

    def overlapping(self, name: str, stage: str, started_s: float, **about: float | str) -> None:
        """Show what began at `started_s` (of time.monotonic) and ends now; others of its kind may run meanwhile."""
        if self._events is None:
            return
        now_s = time.monotonic()
        with self._lock:
            self._spans += 1
            both = {"cat": stage, "id": self._spans}
            begun = self._event(name, stage, started_s) | both
            self._events.append(begun | {"ph": "b", "args": about})
            self._events.append(self._event(name, stage, now_s) | both | {"ph": "e"})

    def take(self) -> dict[str, float]:
        """Seconds by metric since the last call; names that stood there once stay, with 0."""
        with self._lock:
            taken = dict(self._sums)
            self._sums = dict.fromkeys(self._sums, 0.0)
            return taken

    def write(self, path: Path) -> None:
        """Write the trace, if one was kept."""
        if self._events is None:
            return
        names = [
            {"ph": "M", "name": "thread_name", "pid": self._rank, "tid": i, "args": {"name": stage}}
            for i, stage in enumerate(STAGES)
        ]
        with self._lock:
            path.write_text(json.dumps({"traceEvents": [*names, *self._events]}))

    def _event(self, name: str, stage: str, at_s: float) -> dict[str, Any]:
        track = STAGES.index(stage)
        return {"name": name, "pid": self._rank, "tid": track, "ts": at_s * 1e6}
