"""`python -m benchmarks.service`, from the repository root: writes benchmarks/results/service.json.

The real server, client and wire over a simulated engine, which sleeps for as long as a device would work. Every figure
is the median of the repetitions, every ratio is of figures of one run. What is left out with --only keeps the figures
that the file holds, with the date of their own run; so do those that other commands put there.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.service.capacity import capacity
from benchmarks.service.fairness import Duration, fairness
from benchmarks.service.gauges import Neighbours
from benchmarks.service.priority import priority
from benchmarks.service.scaling import scaling
from benchmarks.service.soak import soak

RESULTS = Path("benchmarks/results/service.json")
PACKAGES = ("grpcio", "protobuf", "numpy")
SIMULATED = (
    "simulated: sleeps for a stated device time per response token, returns packed random scores"
)


def parts(quick: bool, soak_minutes: float) -> dict[str, Callable[[], Awaitable[dict[str, Any]]]]:
    """By name, in order: memory is told first, while this process is fresh."""
    repeats = 1 if quick else 5
    return {
        "soak": lambda: soak(soak_minutes),
        "capacity": lambda: capacity(repeats, 5 if quick else 10),
        "fairness": lambda: fairness(Duration(1 if quick else 3, 10 if quick else 30)),
        "priority": lambda: priority(5 if quick else 25, update_s=1.0),
        "scaling": lambda: scaling(1 if quick else 3, 8 if quick else 20),
    }


async def main() -> None:
    """Run the parts, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=list(parts(False, 1)), nargs="*")
    parser.add_argument("--quick", action="store_true", help="short repetitions, for a look")
    parser.add_argument("--soak-minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    for name, run in parts(arguments.quick, arguments.soak_minutes).items():
        if name in (arguments.only or [name]):
            neighbours = Neighbours()
            figures = await run()
            figures |= neighbours.figures(name)
            write(arguments.out, figures | {f"date_{name}": _today()})
            print(json.dumps(figures, indent=1), flush=True)


def write(path: Path, figures: dict[str, Any]) -> None:
    """Into the file, beside what others put there."""
    result = json.loads(path.read_text()) if path.exists() else {}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    result |= figures | {
        "engine": SIMULATED,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": result.get("versions", {}) | {"python": sys.version.split()[0]} | versions,
        "date": _today(),
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def _today() -> str:
    return datetime.date.today().isoformat()


if __name__ == "__main__":
    asyncio.run(main())
