"""Resident memory of server and client under mixed work: backlogs, items taken back, streams that come and go."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from statistics import median
from typing import Any

from benchmarks.service.engine import Device
from benchmarks.service.gauges import resident_mib
from benchmarks.service.load import Answers, Asker, Shape, photograph, under_way
from benchmarks.service.server import SimulatedServer

DEVICE = Device(token_s=1 / 20_000, batch_s=0.002)
SHAPE = Shape(prompt=300, response=(20, 400), picture=photograph())
UNDER_WAY = 64
FLEETING_S = (0.2, 4.0)
"""Life of a client that goes away in the middle of its work."""
SAMPLES = 600
WARM_UP_SHARE = 0.2
"""Of the time, before the first reading: allocators settle. With ten minutes, two."""
READING_SHARE = 0.1
"""A reading is the median over so much of the time."""


async def soak(minutes: float) -> dict[str, Any]:
    """Growth between the end of the warm-up and the end, MiB."""
    samples: list[tuple[float, float, float]] = []
    fleeting = Fleeting()
    seconds = 60 * minutes
    async with SimulatedServer.start(DEVICE) as server, server.client() as teacher:
        asker = Asker(teacher, SHAPE, seed=1)
        async with under_way(asker.backlog(UNDER_WAY), fleeting.come_and_go(server)):
            started_s = time.monotonic()
            while (at_s := time.monotonic() - started_s) < seconds:
                await asyncio.sleep(seconds / SAMPLES)
                asker.answers, scored = Answers(), sum(asker.answers.tokens)
                fleeting.scored_tokens += scored
                state = await server.state()
                samples.append((at_s, state["resident_mib"], resident_mib()))
    warm_s, span_s = WARM_UP_SHARE * seconds, READING_SHARE * seconds
    first = [s for s in samples if warm_s <= s[0] < warm_s + span_s]
    last = [s for s in samples if s[0] >= seconds - span_s]
    print(f"soak {minutes:g} min: {fleeting.clients} clients came and went", flush=True)
    return {
        "soak_minutes": minutes,
        "server_growth_mib": median(s[1] for s in last) - median(s[1] for s in first),
        "client_growth_mib": median(s[2] for s in last) - median(s[2] for s in first),
        "soak_server_mib": _curve([s[1] for s in samples]),
        "soak_client_mib": _curve([s[2] for s in samples]),
        "soak_scored_tokens": fleeting.scored_tokens,
        "soak_clients_that_left_in_the_middle": fleeting.clients,
    }


class Fleeting:
    """Clients that come, ask, and leave with work under way."""

    def __init__(self) -> None:
        self.clients = 0
        self.scored_tokens = 0

    async def come_and_go(self, server: SimulatedServer) -> None:
        """Until cancelled, one after the other."""
        chance = random.Random(7)
        while True:
            self.clients += 1
            async with server.client() as teacher:
                asker = Asker(teacher, SHAPE, seed=1000 + self.clients)
                async with under_way(asker.backlog(UNDER_WAY)):
                    await asyncio.sleep(chance.uniform(*FLEETING_S))
            self.scored_tokens += sum(asker.answers.tokens)
            del asker, teacher
            gc.collect()


def _curve(values: list[float]) -> list[float]:
    """Medians of ten equal parts."""
    step = max(1, len(values) // 10)
    parts = [values[i : i + step] for i in range(0, len(values), step)]
    return [round(median(part), 1) for part in parts[:10]]
