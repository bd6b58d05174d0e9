"""How much longer a trainer's step takes beside clients that score data sets as fast as they can."""

from __future__ import annotations

import asyncio
import contextlib
import time
from statistics import median
from typing import Any

from benchmarks.service.engine import Device
from benchmarks.service.load import GROUP, Asker, Shape, under_way
from benchmarks.service.server import SimulatedServer

DEVICE = Device(token_s=1 / 20_000, batch_s=0.002)
PROMPTS = 16
"""Of a step, GROUP responses each."""
SCORERS = 4
SCORER_UNDER_WAY = 64
TRAINED = Shape(prompt=200, response=(100, 300))
SCORED = Shape(prompt=200, response=(100, 300), priority="score")
WEIGHTS = {"trainer": 1.0, **{f"scorer-{i}": 1.0 for i in range(SCORERS)}}
BLOCK_STEPS = 5
"""Steps in a row, alone or beside the others."""


async def priority(steps: int, update_s: float) -> dict[str, Any]:
    """Medians over `steps` of each kind, in turns; the scorers' throughput beside the trainer says that they were
    there.
    """
    alone: list[float] = []
    beside: list[float] = []
    scored, scoring_s = 0, 0.0
    async with (
        SimulatedServer.start(DEVICE, WEIGHTS) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        teachers = {name: await stack.enter_async_context(server.client(name)) for name in WEIGHTS}
        trainer = Asker(teachers.pop("trainer"), TRAINED, seed=1)
        await _step(trainer, update_s)
        while len(beside) < steps:
            block = min(BLOCK_STEPS, steps - len(beside))
            alone += [await _step(trainer, update_s) for _ in range(block)]
            scorers = [Asker(each, SCORED, seed=2 + i) for i, each in enumerate(teachers.values())]
            async with under_way(*(each.backlog(SCORER_UNDER_WAY) for each in scorers)):
                await asyncio.sleep(1.0)
                before, since_s = await server.served(), time.monotonic()
                beside += [await _step(trainer, update_s) for _ in range(block)]
                after, ended_s = await server.served(), time.monotonic()
            scored += sum(after[name] - before.get(name, 0) for name in teachers)
            scoring_s += ended_s - since_s
            await _settled(server)
            print(
                f"priority {len(beside)}/{steps}: {median(alone):.3f} {median(beside):.3f}",
                flush=True,
            )
    return {
        "train_step_ratio_under_score": median(beside) / median(alone),
        "train_step_alone_s": median(alone),
        "train_step_under_score_s": median(beside),
        "train_step_update_s": update_s,
        "train_steps": len(beside),
        "train_step_responses": PROMPTS * GROUP,
        "score_tokens_per_s_beside_training": scored / scoring_s,
    }


async def _step(trainer: Asker, update_s: float) -> float:
    """All responses are asked for at once and waited for, then the student is updated."""
    started_s = time.monotonic()
    await trainer.groups(PROMPTS)
    await asyncio.sleep(update_s)
    return time.monotonic() - started_s


async def _settled(server: SimulatedServer) -> None:
    """Until nothing is served any more."""
    before: dict[str, int] = {}
    while (now := await server.served()) != before:
        before = now
        await asyncio.sleep(0.5)
