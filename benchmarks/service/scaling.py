"""Whether four replicas serve one client four times as much as one does. The device is slow: CPUs don't count."""

from __future__ import annotations

import asyncio
import contextlib
import time
from statistics import median
from typing import Any

from benchmarks.service.engine import Device
from benchmarks.service.load import Asker, Shape, under_way
from benchmarks.service.server import SimulatedServer
from protos.client import TeacherClient

DEVICE = Device(token_s=1 / 2500, batch_s=0.002)
MAX_BATCH_TOKENS = 4096
REPLICAS = 4
SHAPE = Shape(prompt=56, response=(100, 300))
UNDER_WAY_EACH = 64
"""Responses for a replica."""
WARM_UP_S = 4.0


async def scaling(repeats: int, seconds: float) -> dict[str, Any]:
    """Tokens a second of one client, of one replica and of four in turns."""
    rates: dict[int, list[float]] = {1: [], REPLICAS: []}
    async with contextlib.AsyncExitStack() as stack:
        addresses: list[str] = []
        for _ in range(REPLICAS):
            start = SimulatedServer.start(DEVICE, max_batch_tokens=MAX_BATCH_TOKENS)
            addresses.append((await stack.enter_async_context(start)).address)
        for turn in range(repeats):
            for count, found in rates.items():
                found.append(await _rate(addresses[:count], seconds, turn))
            print(f"scaling {turn + 1}/{repeats}", {n: r[-1] for n, r in rates.items()}, flush=True)
    one, four = median(rates[1]), median(rates[REPLICAS])
    return {
        "replica_scaling_4": four / one,
        "replica_tokens_per_s_1": one,
        "replica_tokens_per_s_4": four,
        "replica_device_tokens_per_s": 1 / DEVICE.token_s,
    }


async def _rate(addresses: list[str], seconds: float, seed: int) -> float:
    async with TeacherClient(addresses) as teacher:
        asker = Asker(teacher, SHAPE, seed)
        async with under_way(asker.backlog(UNDER_WAY_EACH * len(addresses))):
            await asyncio.sleep(WARM_UP_S)
            since_s = time.monotonic()
            await asyncio.sleep(seconds)
            return asker.answers.tokens_since(since_s) / (time.monotonic() - since_s)
