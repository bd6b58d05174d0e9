"""Responses sent while something goes wrong, each of which must be answered exactly once, to the bit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from protos.arrays import as_ids
from protos.client import TeacherClient
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores

WORDS = range(40, 90)
PAUSE_S = 0.05
AT_A_TIME = 64
ENOUGH = 10
"""A run with fewer answers, before or after the fault, is no run."""


def prompt(seed: int) -> Prompt:
    """Words alone; the same ones for the same seed."""
    ids = as_ids(np.random.default_rng(seed).choice(WORDS, 6))
    return Prompt(ids, ids, expected_responses=4)


def item(seed: int) -> ScoreItem:
    rng = np.random.default_rng(1000 + seed)
    return ScoreItem(as_ids(rng.choice(WORDS, rng.integers(1, 12))), k=4)


@dataclass
class History:
    """What came back, and when."""

    scores: dict[int, list[Scores]] = field(default_factory=dict)
    answered_s: list[float] = field(default_factory=list)
    """On the monotonic clock."""

    def after(self, moment_s: float) -> list[float]:
        """Seconds from `moment_s` to each later answer."""
        return sorted(t - moment_s for t in self.answered_s if t > moment_s)


async def run_traffic(
    teacher: TeacherClient, until: Callable[[], bool], at_a_time: int = 8
) -> History:
    """Keep `at_a_time` responses under way, two to a prompt, until told to stop."""
    history = History()
    numbers = iter(range(10**9))

    async def ask() -> None:
        while not until():
            number = next(numbers)
            put = await teacher.put_prompt(prompt(number))
            pair = [2 * number, 2 * number + 1]
            for n, scores in zip(
                pair,
                await asyncio.gather(*(teacher.score(put, item(n)) for n in pair)),
                strict=True,
            ):
                history.scores.setdefault(n, []).append(scores)
                history.answered_s.append(time.monotonic())
            await teacher.drop_prompt(put)
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(ask() for _ in range(at_a_time // 2)))
    return history


async def check(history: History, reference: TeacherClient, moments_s: Sequence[float]) -> None:
    """Exactly one answer each, equal to an undisturbed teacher's; and traffic on both sides of every moment."""
    assert all(len(found) == 1 for found in history.scores.values())
    for moment_s in moments_s:
        before = sum(t < moment_s for t in history.answered_s)
        assert before >= ENOUGH, f"{before} answers before the fault"
        assert len(history.after(moment_s)) >= ENOUGH, "too few answers after the fault"
    pairs = sorted({number // 2 for number in history.scores})
    for first in range(0, len(pairs), AT_A_TIME):
        await asyncio.gather(
            *(_compare(history, reference, pair) for pair in pairs[first : first + AT_A_TIME])
        )


async def _compare(history: History, reference: TeacherClient, pair: int) -> None:
    put = await reference.put_prompt(prompt(pair))
    for number in (2 * pair, 2 * pair + 1):
        (scores,) = history.scores[number]
        assert scores.equal_to(await reference.score(put, item(number))), number
    await reference.drop_prompt(put)
