#!/usr/bin/env python3
"""Train, and where that went well write the run's report:

then_report.py RUN_FOLDER COMMAND [ARGUMENT ...]

The exit status is the training's, or else the report's. SIGTERM goes to the training.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run both."""
    run, *command = sys.argv[1:]
    if refusal := unwritable(Path(run)):
        print(refusal, file=sys.stderr)
        return 2
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        if started:
            started[0].send_signal(number)
        else:  # it may run already, and would be left behind
            early.append(number)

    signal.signal(signal.SIGTERM, hand_on)
    started.append(subprocess.Popen(command))
    for number in early:
        started[0].send_signal(number)
    # A terminal's Ctrl-C reaches the training by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = started[0].wait()
    if status:
        return status if status > 0 else 128 - status
    return subprocess.call(["student-trainer", "report", run, "--out", f"{run}/report.html"])


def unwritable(run: Path) -> str | None:
    """Why nothing can be written there: the user of a container owns little outside it."""
    there = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if os.access(there, os.W_OK):
        return None
    return (
        f"user {os.getuid()} may not write to {there}, where the run is to go: on the machine that it is mounted from, "
        f"export RUN_AS=$(id -u):$(id -g) as a user who may, or as root chown {os.getuid()} that folder"
    )


if __name__ == "__main__":
    sys.exit(main())
