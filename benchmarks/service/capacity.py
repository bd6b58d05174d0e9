"""How many packed scores a second one server process and one client process carry here, and what it costs them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.service.engine import Device
from benchmarks.service.gauges import Profile
from benchmarks.service.load import Asker, K, Shape, photograph, under_way
from benchmarks.service.server import SimulatedServer
from protos.item import ScoreDType

WANTED = 27_000
"""Response tokens a second of one H100 with Qwen3-VL-8B."""
RESPONSE = (256, 256)
PROMPT = 300
UNDER_WAY = 192
"""Responses, of one client on one stream."""
WARM_UP_S = 3.0
KINDS: dict[str, tuple[ScoreDType, float]] = {
    "f32": ("f32", 0.0),
    "f16": ("f16", 0.0),
    "device": ("f32", 1 / WANTED),
}
"""Wire dtype of the support, and device seconds for a token."""


@dataclass
class _Run:
    tokens_per_s: float
    server_cpu_us: float
    """Microseconds of CPU for a token."""
    client_cpu_us: float
    bytes_per_token: float


async def capacity(repeats: int, seconds: float) -> dict[str, Any]:
    """Without a device time, in f32 and f16; and with the device time of `WANTED` tokens a second."""
    runs: dict[str, list[_Run]] = {}
    for turn in range(repeats):
        for name, (dtype, token_s) in KINDS.items():
            async with SimulatedServer.start(Device(token_s)) as server:
                run = await _run(server, dtype, seconds, turn)
            runs.setdefault(name, []).append(run)
            print(f"capacity {turn + 1}/{repeats} {name}: {run}", flush=True)
    figures = {
        f"capacity_{name}_{key}": median(getattr(run, key) for run in each)
        for name, each in runs.items()
        for key in _Run.__dataclass_fields__
    }
    sustained = figures["capacity_f32_tokens_per_s"]
    return {
        "sustained_scored_tokens_per_s": sustained,
        "sustained_over_wanted": sustained / WANTED,
        **figures,
        "capacity_runs_f32_tokens_per_s": [run.tokens_per_s for run in runs["f32"]],
        "capacity_wanted_tokens_per_s": WANTED,
        "capacity_k": K,
        "capacity_response_tokens": RESPONSE[0],
        **await _profiles(seconds),
    }


async def _run(server: SimulatedServer, dtype: ScoreDType, seconds: float, seed: int) -> _Run:
    async with server.client() as teacher:
        asker = Asker(teacher, Shape(PROMPT, RESPONSE, photograph(), dtype=dtype), seed)
        async with under_way(asker.backlog(UNDER_WAY)):
            await asyncio.sleep(WARM_UP_S)
            before, stats = await server.state(), teacher.stats
            received, since_s, cpu_s = stats.received_bytes, time.monotonic(), time.process_time()
            await asyncio.sleep(seconds)
            after = await server.state()
            ended_s, ended_cpu_s = time.monotonic(), time.process_time()
            received = stats.received_bytes - received
            tokens = asker.answers.tokens_since(since_s)
    return _Run(
        tokens_per_s=tokens / (ended_s - since_s),
        server_cpu_us=1e6 * (after["cpu_s"] - before["cpu_s"]) / tokens,
        client_cpu_us=1e6 * (ended_cpu_s - cpu_s) / tokens,
        bytes_per_token=received / tokens,
    )


async def _profiles(seconds: float) -> dict[str, dict[str, float]]:
    """Where the time of both event loops goes: own time by function. Profiling slows them down itself."""
    async with SimulatedServer.start(Device(0.0)) as server, server.client() as teacher:
        asker = Asker(teacher, Shape(PROMPT, RESPONSE, photograph()), seed=99)
        async with under_way(asker.backlog(UNDER_WAY)):
            await asyncio.sleep(WARM_UP_S)
            await server.profile()
            profile = Profile()
            await asyncio.sleep(seconds)
            client = profile.shares()
            return {"profile_server": await server.profile(), "profile_client": client}
