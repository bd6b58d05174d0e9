"""10,000 short responses from 8 clients that cancel at random: nothing may be left behind, and memory stay level."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import numpy as np

from benchmarks.vllm.model import random_ids
from benchmarks.vllm.peers import Ours
from benchmarks.vllm.workload import Shape, workload
from protos.arrays import as_ids
from protos.client import TeacherClient
from protos.errors import TeacherError
from protos.item import ScoreItem

RESPONSES = 10_000
CLIENTS = 8
RESPONSE_TOKENS = 8
IN_FLIGHT = 16
"""Of one client."""
CANCELLED_SHARE = 0.2
SHAPE = Shape(prompt=60, image=16, response=RESPONSE_TOKENS, prompts=1, responses_per_prompt=1)


async def soak(ours: Ours) -> dict[str, Any]:
    """Gauges of the server before, halfway and after."""
    await _clients(ours.address, RESPONSES // 20, seed=1)  # caches fill and allocators settle
    states = [await _settled(ours)]
    outcomes = {"scored": 0, "cancelled": 0, "failed": 0}
    for half in range(2):
        for name, count in (await _clients(ours.address, RESPONSES // 2, seed=2 + half)).items():
            outcomes[name] += count
        states.append(await _settled(ours))
    return {
        **{f"soak_{name}": count for name, count in outcomes.items()},
        "leaked_pairs": states[-1]["parked"],
        "soak_resident_mb": [round(state["resident_mb"], 1) for state in states],
    }


async def _clients(address: str, responses: int, seed: int) -> dict[str, int]:
    outcomes = {"scored": 0, "cancelled": 0, "failed": 0}
    shares = [
        _client(address, responses // CLIENTS, seed * CLIENTS + i, outcomes) for i in range(CLIENTS)
    ]
    await asyncio.gather(*shares)
    return outcomes


async def _client(address: str, responses: int, seed: int, outcomes: dict[str, int]) -> None:
    chance, rng = random.Random(seed), np.random.default_rng(seed)
    room = asyncio.Semaphore(IN_FLIGHT)
    async with TeacherClient(address) as teacher:
        put = await teacher.put_prompt(workload(SHAPE, seed)[0].prompt)

        async def one() -> None:
            async with room:
                item = ScoreItem(as_ids(random_ids(rng, RESPONSE_TOKENS)), k=8)
                task = asyncio.create_task(teacher.score(put, item))
                if chance.random() < CANCELLED_SHARE:
                    await asyncio.sleep(chance.random() * 0.05)
                    task.cancel()
                try:
                    await task
                    outcomes["scored"] += 1
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1
                except TeacherError:
                    outcomes["failed"] += 1

        await asyncio.gather(*(one() for _ in range(responses)))


async def _settled(ours: Ours) -> dict[str, float]:
    """Once what was abandoned has been dropped; 5 s at most."""
    state = await ours.process.ask(do="state")
    for _ in range(50):
        if not state["parked"]:
            break
        await asyncio.sleep(0.1)
        state = await ours.process.ask(do="state")
    return state
