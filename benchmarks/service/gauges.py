"""What a process can tell of itself, and of the machine."""

from __future__ import annotations

import cProfile
import os
import pstats
import time
from pathlib import Path

TOLD = 14
"""Functions of a profile."""


def resident_mib() -> float:
    """Of this process, from /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Neighbours:
    """What others did on this machine while we measured. Our own processes count once they have ended."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._began = time.monotonic(), _busy_s() - _own_s(), _machine_s()["steal"]

    def figures(self, name: str) -> dict[str, float]:
        """Load when it began, and cores that were busy for others or given to another machine since then."""
        since_s, others_s, stolen_s = self._began
        seconds = time.monotonic() - since_s
        return {
            f"load_1min_at_start_{name}": round(self._load, 2),
            f"cores_of_others_{name}": round((_busy_s() - _own_s() - others_s) / seconds, 2),
            f"cores_stolen_{name}": round((_machine_s()["steal"] - stolen_s) / seconds, 2),
        }


def _machine_s() -> dict[str, float]:
    """Seconds of all cores by what they were spent on."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    ticks = Path("/proc/stat").read_text().split()[1:9]
    return {name: int(t) / os.sysconf("SC_CLK_TCK") for name, t in zip(names, ticks, strict=True)}


def _busy_s() -> float:
    spent = _machine_s()
    return sum(spent[name] for name in ("user", "nice", "system", "irq", "softirq"))


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Profile:
    """Of the thread that makes it, from then on. gRPC's own threads are not in it."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()
        self._profile.enable()

    def shares(self) -> dict[str, float]:
        """Function -> its own share of the time, largest first; `poll` is idle."""
        self._profile.disable()
        stats: dict[tuple[str, int, str], tuple[int, int, float, float, object]]
        stats = pstats.Stats(self._profile).stats  # type: ignore[attr-defined]
        total = sum(own_s for _, _, own_s, _, _ in stats.values())
        largest = sorted(stats.items(), key=lambda item: -item[1][2])[:TOLD]
        return {_name(*where): round(own_s / total, 3) for where, (_, _, own_s, _, _) in largest}


def _name(file: str, line: int, function: str) -> str:
    parts = Path(file).parts[-2:]
    return function if file.startswith("~") else f"{'/'.join(parts)}:{line} {function}"
