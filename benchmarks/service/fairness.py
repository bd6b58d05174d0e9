"""Whether clients get their shares, whatever one of them does, told by what was served and how long items waited."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.service.engine import Device
from benchmarks.service.load import Answers, Asker, Shape, under_way
from benchmarks.service.server import SimulatedServer

DEVICE = Device(token_s=1 / 10_000, batch_s=0.002)
MAX_BATCH_TOKENS = 8192
RESPONSE = 200
PROMPT = 56
CLIENTS = 8
POLITE_SHARE = 0.1
"""Of the device's tokens, each of CLIENTS - 1."""
POLITE_UNDER_WAY = 16
"""Responses; with eight clients four batches of them wait."""
FLOOD = 50
"""Times as many."""
FLOOD_STREAMS = 3
"""One has credit for a third of the flood."""
WEIGHTS = {"one": 1.0, "two": 2.0, "four": 4.0}
MIXED = Shape(PROMPT, (100, 300))
EVEN = Shape(PROMPT, (RESPONSE, RESPONSE))
WARM_UP_S = 4.0
"""Until the flood has said all that its credit allows."""


@dataclass(frozen=True)
class Duration:
    """Of the repetitions."""

    repeats: int
    seconds: float
    warm_up_s: float = WARM_UP_S


async def fairness(duration: Duration) -> dict[str, Any]:
    """Jain's index beside a flood, polite clients' waits beside one, and weights."""
    shares, weighted, waits = [], [], []
    for turn in range(duration.repeats):
        shares.append(await flooded_shares(duration, turn))
        weighted.append(await weight_errors(duration, turn))
        waits.append(await polite_waits(duration, turn))
        print(
            f"fairness {turn + 1}/{duration.repeats}", *_last(shares, weighted, waits), flush=True
        )
    return {
        "jain_index": median(shares),
        "jain_index_runs": shares,
        "weights_max_rel_err": median(weighted),
        "weights_max_rel_err_runs": weighted,
        **{f"polite_{key}": median(each[key] for each in waits) for key in waits[0]},
        "polite_added_wait_over_bound_runs": [each["added_wait_over_bound"] for each in waits],
    }


async def flooded_shares(duration: Duration, seed: int) -> float:
    """Jain's index of the tokens served to clients of equal weight that all have work waiting; one has FLOOD times as
    much.
    """
    names = [f"client-{i}" for i in range(CLIENTS)]
    amounts = dict.fromkeys(names, POLITE_UNDER_WAY) | {names[0]: FLOOD * POLITE_UNDER_WAY}
    served = await _served(dict.fromkeys(names, 1.0), amounts, duration, seed)
    return jain([served[name] for name in names])


async def weight_errors(duration: Duration, seed: int) -> float:
    """Largest relative error of a client's part of the tokens against its part of the weights."""
    amounts = {name: int(POLITE_UNDER_WAY * 4 * weight) for name, weight in WEIGHTS.items()}
    served = await _served(WEIGHTS, amounts, duration, seed)
    parts = {name: weight / sum(WEIGHTS.values()) for name, weight in WEIGHTS.items()}
    total = sum(served[name] for name in WEIGHTS)
    return max(abs(served[name] / total / parts[name] - 1) for name in WEIGHTS)


async def polite_waits(duration: Duration, seed: int) -> dict[str, float]:
    """The 99th percentile of how long polite clients' responses queue, alone and beside a flood, against the bound.

    The bound is the device time of a full batch, and of one response of each client.
    """
    alone, flooded = [
        await _polite(duration, seed, flood=flood) for flood in (0, FLOOD * POLITE_UNDER_WAY)
    ]
    tokens = MAX_BATCH_TOKENS // (2 * (PROMPT + RESPONSE)) * RESPONSE
    batch_s = DEVICE.batch_s + DEVICE.token_s * tokens
    bound_s = batch_s + CLIENTS * DEVICE.token_s * RESPONSE
    added_s = _p99(flooded.queue_s) - _p99(alone.queue_s)
    return {
        "added_wait_over_bound": added_s / bound_s,
        "added_latency_over_bound": (_p99(flooded.latency_s) - _p99(alone.latency_s)) / bound_s,
        "wait_bound_s": bound_s,
        "wait_p99_alone_s": _p99(alone.queue_s),
        "wait_p99_flooded_s": _p99(flooded.queue_s),
        "responses": float(len(flooded.queue_s)),
    }


def jain(shares: list[int]) -> float:
    """1 where all are equal, 1 / n where one has everything (Jain, Chiu and Hawe 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


async def _served(
    weights: dict[str, float], amounts: dict[str, int], duration: Duration, seed: int
) -> dict[str, int]:
    """Tokens served while every client kept its amount of responses under way."""
    async with (
        SimulatedServer.start(DEVICE, weights, max_batch_tokens=MAX_BATCH_TOKENS) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        work = [
            asker.backlog(amount // streams)
            for name, amount in amounts.items()
            for streams in [_streams(amount)]
            for asker in await _askers(stack, server, name, MIXED, streams, seed)
        ]
        async with under_way(*work):
            await asyncio.sleep(duration.warm_up_s)
            before = await server.served()
            await asyncio.sleep(duration.seconds)
            after = await server.served()
    return {name: after.get(name, 0) - before.get(name, 0) for name in weights}


async def _polite(duration: Duration, seed: int, flood: int) -> Answers:
    names = [f"polite-{i}" for i in range(CLIENTS - 1)]
    weights = dict.fromkeys([*names, "flood"], 1.0)
    async with (
        SimulatedServer.start(DEVICE, weights, max_batch_tokens=MAX_BATCH_TOKENS) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        polite = [
            asker
            for i, name in enumerate(names)
            for asker in await _askers(stack, server, name, EVEN, 1, seed * CLIENTS + i)
        ]
        work = [asker.pace(POLITE_SHARE / DEVICE.token_s) for asker in polite]
        if flood:
            streams = _streams(flood)
            floods = await _askers(stack, server, "flood", EVEN, streams, 1000 + seed)
            work += [asker.backlog(flood // streams) for asker in floods]
        async with under_way(*work):
            await asyncio.sleep(duration.warm_up_s)
            since_s = time.monotonic()
            await asyncio.sleep(duration.seconds)
            return _joined([asker.answers for asker in polite], since_s)


async def _askers(
    stack: contextlib.AsyncExitStack,
    server: SimulatedServer,
    name: str,
    shape: Shape,
    streams: int,
    seed: int,
) -> list[Asker]:
    teachers = [await stack.enter_async_context(server.client(name)) for _ in range(streams)]
    return [Asker(teacher, shape, seed * 100 + i) for i, teacher in enumerate(teachers)]


def _streams(responses: int) -> int:
    return FLOOD_STREAMS if responses >= FLOOD * POLITE_UNDER_WAY else 1


def _joined(each: list[Answers], since_s: float) -> Answers:
    joined = Answers()
    for answers in each:
        late = [i for i, at in enumerate(answers.done_s) if at >= since_s]
        joined.queue_s += [answers.queue_s[i] for i in late]
        joined.latency_s += [answers.latency_s[i] for i in late]
    return joined


def _p99(values: list[float]) -> float:
    return float(np.percentile(values, 99))


def _last(*lists: list[Any]) -> list[Any]:
    return [each[-1] for each in lists]
