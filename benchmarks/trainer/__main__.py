"""`python -m benchmarks.trainer`, from the repository root: writes benchmarks/results/trainer.json.

On a CPU of two cores that has nothing else to do: about 30 minutes for step_cost, 7 for overlap, 2 for ranks, 1 for
loss_memory. Each module tells what its figures are of. A part that is left out with --only keeps the figures that the
file holds, with the date of their own run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.service.gauges import Neighbours

RESULTS = Path("benchmarks/results/trainer.json")
PARTS = ("loss_memory", "ranks", "overlap", "step_cost")
"""Modules of this package; `measure` of each returns its figures."""
PACKAGES = ("torch", "transformers", "grpcio", "numpy")


def main() -> None:
    """Run the parts, and write the file after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, metavar="PART")
    arguments = parser.parse_args()
    for part in PARTS:
        if part in arguments.only:
            neighbours = Neighbours()
            figures: dict[str, Any] = importlib.import_module(f"{__package__}.{part}").measure()
            figures |= neighbours.figures(part)
            write(arguments.out, figures | {f"date_{part}": _today()})
            print(json.dumps(figures, indent=1), flush=True)


def write(path: Path, figures: dict[str, Any]) -> None:
    """Into the file, beside what other parts put there."""
    result = json.loads(path.read_text()) if path.exists() else {}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    result |= figures | {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": sys.version.split()[0]} | versions,
        "date": _today(),
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def _today() -> str:
    return datetime.date.today().isoformat()


if __name__ == "__main__":
    main()
