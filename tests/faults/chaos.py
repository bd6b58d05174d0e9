"""`python -m tests.faults.chaos`: the long form of the faults, with figures in benchmarks/results/service.json.

Kills, freezes and cuts under traffic, each phase checked as the tests check theirs: every response scored exactly once,
equal to an undisturbed teacher's to the bit. Recovery is the time from a kill to the first score after it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from protos.client import TeacherClient
from tests.faults.proxy import Proxy
from tests.faults.teacher_process import TeacherProcess, teachers
from tests.faults.traffic import check, run_traffic
from tests.loopback import serving
from tests.tiny_models import make_qwen3_vl

RESULTS = Path("benchmarks/results/service.json")
BETWEEN_S = (0.5, 2.0)
"""Traffic between two faults, at random."""


@dataclass
class Figures:
    """Of all phases."""

    recovery_s: list[float] = field(default_factory=list)
    """One teacher: its restart is in it."""
    failover_s: list[float] = field(default_factory=list)
    """One of three."""
    sigstop_s: list[float] = field(default_factory=list)
    tried: int = 0
    survived: int = 0
    responses: int = 0


@contextlib.asynccontextmanager
async def traffic(
    teacher: TeacherClient, reference: TeacherClient, figures: Figures
) -> AsyncIterator[list[float]]:
    """Traffic while the context is open; append the moments of its faults. Leaving it checks, and counts them."""
    stopped = False
    moments_s: list[float] = []
    task = asyncio.create_task(run_traffic(teacher, lambda: stopped))
    await asyncio.sleep(BETWEEN_S[1])
    watched = asyncio.current_task()
    assert watched is not None
    # Traffic that fails ends the phase at once.
    task.add_done_callback(lambda ended: stopped or watched.cancel(str(ended.exception())))
    try:
        yield moments_s
        await asyncio.sleep(BETWEEN_S[1])
    finally:
        stopped = True
        await asyncio.wait({task}, timeout=120)
    history = task.result()
    await check(history, reference, moments_s)
    figures.survived += len(moments_s)
    figures.responses += len(history.scores)


async def pause(chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(*BETWEEN_S))


async def first_answer(teacher: TeacherClient, since_s: float) -> float:
    """Seconds until a score comes that was not there at `since_s`."""
    before = teacher.stats.scored_tokens
    while teacher.stats.scored_tokens == before:
        await asyncio.sleep(0.005)
    return time.monotonic() - since_s


async def killed_and_back(
    processes: list[TeacherProcess], reference: TeacherClient, kills: int, chance: random.Random,
    figures: Figures, times_s: list[float],
) -> None:  # fmt: skip
    """kill -9 of one of these at random, and its return."""
    async with (
        TeacherClient([one.address for one in processes], outage_s=120) as teacher,
        traffic(teacher, reference, figures) as moments_s,
    ):
        for number in range(kills):
            victim = chance.choice(processes)
            figures.tried += 1
            await asyncio.to_thread(victim.kill)
            moments_s.append(time.monotonic())
            back = asyncio.create_task(asyncio.to_thread(victim.start().wait_healthy))
            times_s.append(await first_answer(teacher, moments_s[-1]))
            await back
            while teacher.replicas[victim.address] != "up":
                await asyncio.sleep(0.02)
            print(f"kill {number + 1}/{kills} of one in {len(processes)}: {times_s[-1]:.2f} s")
            await pause(chance)


async def frozen(
    processes: list[TeacherProcess], reference: TeacherClient, times: int, figures: Figures
) -> None:
    """SIGSTOP, until the client has noticed; then SIGCONT."""
    async with (
        TeacherClient([one.address for one in processes]) as teacher,
        traffic(teacher, reference, figures) as moments_s,
    ):
        for victim in processes[:times]:
            figures.tried += 1
            moments_s.append(time.monotonic())
            victim.send(signal.SIGSTOP)
            while teacher.replicas[victim.address] == "up":
                await asyncio.sleep(0.02)
            figures.sigstop_s.append(time.monotonic() - moments_s[-1])
            print(f"frozen: noticed after {figures.sigstop_s[-1]:.1f} s")
            victim.send(signal.SIGCONT)
            while teacher.replicas[victim.address] != "up":
                await asyncio.sleep(0.02)


async def cut(
    address: str, reference: TeacherClient, cuts: int, chance: random.Random, figures: Figures
) -> None:
    """Connections reset, delayed and throttled at random."""
    line = Proxy(address)
    async with (
        line.running() as through,
        TeacherClient(through) as teacher,
        traffic(teacher, reference, figures) as moments_s,
    ):
        for _ in range(cuts):
            figures.tried += 1
            line.delay_s = chance.choice([0.0, 0.02])
            line.bytes_per_s = chance.choice([0.0, 200_000.0])
            moments_s.append(time.monotonic())
            line.cut()
            await first_answer(teacher, moments_s[-1])
            await pause(chance)
    print(f"{cuts} cuts")


async def chaos(kills: int, seed: int, folder: Path) -> Figures:
    """All phases."""
    chance, figures = random.Random(seed), Figures()
    model = make_qwen3_vl(folder / "model", seed=1)
    with serving(model, engine={"deterministic": True}) as undisturbed:
        async with TeacherClient(undisturbed) as reference:
            with teachers(model, folder, 1) as one:
                await killed_and_back(one, reference, kills, chance, figures, figures.recovery_s)
            with teachers(model, folder, 3) as three:
                await killed_and_back(
                    three, reference, kills // 2, chance, figures, figures.failover_s
                )
                await frozen(three, reference, 2, figures)
            await cut(undisturbed, reference, kills, chance, figures)
    return figures


def main() -> None:
    """Run, and merge the figures into the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(chaos(arguments.kills, seed, Path(folder)))
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    result |= {
        "recovery_p50_s": float(np.percentile(figures.recovery_s, 50)),
        "recovery_p99_s": float(np.percentile(figures.recovery_s, 99)),
        "recovery_kills": len(figures.recovery_s),
        "failover_p50_s": float(np.percentile(figures.failover_s, 50)),
        "failover_p99_s": float(np.percentile(figures.failover_s, 99)),
        "sigstop_detected_s": max(figures.sigstop_s),
        "faults_tried": figures.tried,
        "faults_survived": figures.survived,
        "responses_scored_under_faults": figures.responses,
        "chaos_seed": seed,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if not isinstance(v, dict)}, indent=1))


if __name__ == "__main__":
    main()
