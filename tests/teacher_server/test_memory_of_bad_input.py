"""A message costs no more than 100 times its bytes, and a floor: of memory, and of the processor."""

import json
import os
import subprocess
import sys

import pytest

from teacher_server.images import FREE_BYTES, MAX_EXPANSION
from tests.fuzz.memory_probe import MESSAGES, Cost

MIB = 2**20
DECODED = {
    "jpeg-of-noise",
    "png-of-a-blank-screen",
    "pngs-of-a-few-texts",
    "webp-of-a-blank-screen",
}
"""Those that the limits let through to a decoder; a floor is for pictures that are blank but not large."""
FLOOR, DECODING_FLOOR = 16 * MIB, FREE_BYTES + 32 * MIB
CPU_FLOOR_S, CPU_S_PER_MIB = 2.0, 0.2


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.memory_probe"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (run.returncode, run.stderr) == (0, ""), "nor does a client write into the server's log"
    measured = [Cost(**json.loads(line)) for line in run.stdout.splitlines()]
    return {cost.name: cost for cost in measured}


def test_memory_is_measured(costs: dict[str, Cost]):
    assert len(costs) >= 12
    assert costs["webp-of-a-blank-screen"].peak_bytes > 60 * MIB
    assert costs["junk-of-15-mebibytes"].peak_bytes > 14 * MIB


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_costs_little_more_than_itself(name: str, costs: dict[str, Cost]):
    cost = costs[name]
    if name not in DECODED | {"png-of-overlapping-exif"}:
        assert cost.outcome in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
    floor = DECODING_FLOOR if name in DECODED else FLOOR
    assert cost.peak_bytes <= MAX_EXPANSION * cost.came_bytes + floor
    assert cost.cpu_s <= CPU_FLOOR_S + CPU_S_PER_MIB * cost.came_bytes / MIB
