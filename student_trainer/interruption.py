"""SIGTERM and Ctrl-C while a run trains: it ends where nothing is half done, so that what was reached can be kept."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopHere(KeyboardInterrupt):
    """Raised where the run may be left: weights, optimizer and step belong together."""


class Interruption:
    """Asked for once, a run stops at the next place where it may; by a second Ctrl-C wherever it is.

    A second SIGTERM is the same request: torchrun and Slurm may send it twice, and have SIGKILL for who won't listen.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at_once = True
        """Before a run begins there is nothing to keep."""

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals, on the main thread; the handlers that were there come back."""
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """Within, a signal is only noted."""
        before, self._at_once = self._at_once, False
        try:
            yield
        finally:
            self._at_once = before

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, nothing is half done: StopHere is raised when a signal comes."""
        before, self._at_once = self._at_once, True
        try:
            if self.asked:
                raise StopHere
            yield
        finally:
            self._at_once = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = self.asked, True
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._at_once:
            raise StopHere
        if not again:
            log.warning(
                "interrupted: the run ends where it can be left; a second Ctrl-C ends it at once"
            )
