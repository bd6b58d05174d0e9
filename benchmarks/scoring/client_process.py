"""`python -m benchmarks.scoring.client_process ADDRESS DATA OUT`: score, and print what it took as a line of JSON."""

from __future__ import annotations

import json
import sys
import threading
import time

from benchmarks.service.gauges import resident_mib
from teacher_server.scoring import score_dataset

EVERY_S = 0.1
CURVE = 20
"""Parts of the run that memory is told of."""


class MemoryGauge:
    """Looks at this process's memory while the context lasts."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        """Resident MiB."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> MemoryGauge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.samples.append(resident_mib())


def main(address: str, data: str, out: str) -> None:
    """Score everything once."""
    baseline_mib = resident_mib()  # with all that the run imports
    with MemoryGauge() as memory:
        began_s = time.monotonic()
        manifest = score_dataset(data, teacher=address, out=out)
        seconds = time.monotonic() - began_s
    step = max(1, len(memory.samples) // CURVE)
    figures = {
        "baseline_mib": baseline_mib,
        "peak_mib": max(memory.samples),
        "curve_mib": [
            max(memory.samples[i : i + step]) for i in range(0, len(memory.samples), step)
        ],
        "seconds": seconds,
        "cpu_s": time.process_time(),
        "rows": manifest.counts.scored,
        "tokens": manifest.counts.tokens,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
