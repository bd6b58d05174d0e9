"""Whether two texts are the same mathematics: math-verify, in a process of its own with bounds on its time and memory.

Computer algebra on what a model wrote has no bound of its own: 9^{9^{9^9}} is eleven characters. math-verify's own
timeouts are signals, which only a main thread may set and which no arithmetic on large numbers heeds. The kernel's
limits hold everywhere, and time is the process's own, so that a busy machine changes no verdict.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import json
import logging
import subprocess
import sys
import threading

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=65_536)
def equal(expected: str, answer: str) -> bool:
    """Whether `answer` is right where `expected` is; the order matters to math-verify. Both without dollar signs.

    Whatever can't be read, or takes more than the worker's limits allow, is not. Any thread may ask. ImportError where
    math-verify is not installed.
    """
    return _worker.ask(expected, answer)


class _Worker:
    """The process, started when it is first needed and again after it died of a question."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def ask(self, expected: str, answer: str) -> bool:
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps([expected, answer]) + "\n")
            process.stdin.flush()
            verdict = process.stdout.readline()
            if verdict:
                return json.loads(verdict)
            self._end()
        logger.warning("beyond the limits of comparison: expected=%r answer=%r", expected, answer)
        return False

    def close(self) -> None:
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        self._process = self._process or _start()
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[str]:
    if importlib.util.find_spec("math_verify") is None:
        raise ImportError("math-verify is not installed: pip install 'vgs-opd[student]'")
    process = subprocess.Popen(
        [sys.executable, "-m", "student_trainer.math_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # an interrupt from the terminal is the trainer's
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        process.communicate()
        raise RuntimeError(
            f"the process that compares answers ended with status {process.returncode} before it was ready; "
            "its standard error says why"
        )
    return process


_worker = _Worker()
