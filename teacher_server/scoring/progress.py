"""How far a run is: a bar where somebody watches, and else a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

LINE_EVERY_S = 10.0


class Progress(Protocol):
    """Use as a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def begin(self, rows: int, total: int | None) -> None:
        """So many rows are done already, of so many if that is known."""
        ...

    def row_done(self, tokens: int, total: int | None) -> None:
        """One more, with its scored tokens; `total` as it seems by now."""
        ...

    def note(self, text: str) -> None:
        """A line of its own."""
        ...


def open_progress() -> Progress:
    """On standard error, fit for what that is."""
    if sys.stderr.isatty():
        return BarProgress()
    return LineProgress(lambda text: print(text, file=sys.stderr, flush=True))


class _Rate:
    """What was done in this process, and how fast."""

    def __init__(self) -> None:
        self.rows = self.first_row = self.tokens = 0
        self.total: int | None = None
        self.began_s = time.monotonic()

    def begin(self, rows: int, total: int | None) -> None:
        self.rows = self.first_row = rows
        self.total, self.began_s = total, time.monotonic()

    def row_done(self, tokens: int, total: int | None) -> None:
        self.rows += 1
        self.tokens += tokens
        self.total = None if total is None else max(total, self.rows)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / max(time.monotonic() - self.began_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        done = self.rows - self.first_row
        if self.total is None or not done:
            return None
        return (time.monotonic() - self.began_s) * (self.total - self.rows) / done


class BarProgress:
    """For a terminal."""

    def __init__(self) -> None:
        self._rate = _Rate()
        self._console = Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("rows"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tokens_per_s]:,.0f} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=None, tokens_per_s=0.0)

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, rows: int, total: int | None) -> None:
        """See Progress."""
        self._rate.begin(rows, total)
        self._bar.reset(self._task, total=total, completed=rows, tokens_per_s=0.0)

    def row_done(self, tokens: int, total: int | None) -> None:
        """See Progress."""
        self._rate.row_done(tokens, total)
        self._bar.update(
            self._task,
            completed=self._rate.rows,
            total=self._rate.total,
            tokens_per_s=self._rate.tokens_per_s,
        )

    def note(self, text: str) -> None:
        """See Progress."""
        self._console.print(text, markup=False, highlight=False)


class LineProgress:
    """For a log."""

    def __init__(self, say: Callable[[str], None], every_s: float = LINE_EVERY_S) -> None:
        self._say = say
        self._every_s = every_s
        self._rate = _Rate()
        self._said_s = 0.0

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._rate.rows > self._rate.first_row:
            self._say(self._line())

    def begin(self, rows: int, total: int | None) -> None:
        """See Progress."""
        self._rate.begin(rows, total)
        self._said_s = time.monotonic()

    def row_done(self, tokens: int, total: int | None) -> None:
        """See Progress."""
        self._rate.row_done(tokens, total)
        now_s = time.monotonic()
        if now_s >= self._said_s + self._every_s:
            self._said_s = now_s
            self._say(self._line())

    def note(self, text: str) -> None:
        """See Progress."""
        self._say(text)

    def _line(self) -> str:
        rate = self._rate
        line = f"rows={rate.rows}"
        if rate.total:
            line += f" of={rate.total} share={rate.rows / rate.total:.1%}"
        line += f" tokens_per_s={rate.tokens_per_s:.0f}"
        return line if rate.left_s is None else f"{line} left_s={rate.left_s:.0f}"
