"""Asynchronous client of a teacher with any number of replicas: whatever happens to one, each response is scored once.

Scoring is a pure function of prompt and request, so what was under way on a replica that went away is asked of another.
A prompt's responses stay on one replica, which encodes the prompt once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from protos.backoff import Backoff
from protos.connection import Connection, ConnectionSettings, HeldPrompt
from protos.credentials import Credentials
from protos.errors import (
    Cancelled,
    ErrorDetail,
    InternalFault,
    LimitExceeded,
    PreconditionFailed,
    Unavailable,
)
from protos.item import ScoreItem
from protos.prompt import AnyPrompt
from protos.replica import Replica
from protos.replica_set import ReplicaSet, TeacherAway
from protos.score_cache import ScoreCache
from protos.score_key import score_key
from protos.scores import Scores
from protos.teacher_info import TeacherInfo
from protos.wire_stats import WireStats

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_LOSSES = 5
"""So many streams may end under one response; then it may be the response that ends them, and it is asked no more."""
WAIT_S = (0.05, 5.0)
"""Bounds of the wait before the next attempt, unless the server names a longer one."""
GUESSED_TOKENS = 256.0
"""Length of a response before the first was seen; only the balance between replicas stands on it."""
CHARACTERS_PER_TOKEN = 4
"""Of a text whose tokens only the teacher can count; only the balance between replicas stands on it."""


@dataclass(eq=False)
class PutPrompt:
    """A prompt that the teacher holds, and the client too, to put it again where it must."""

    prompt: AnyPrompt
    mm_length: int = 0
    """Tokens after the teacher expanded the images."""
    text_length: int = 0
    replica: Replica | None = None
    """Which holds it now."""
    connection: Connection | None = None
    held: HeldPrompt | None = None
    promised_tokens: float = 0.0
    """Of its responses to come, counted on `replica`."""
    under_way: int = 0
    """Responses that wait for their scores."""
    dropped: bool = False
    placing: asyncio.Lock = field(default_factory=asyncio.Lock)


class TeacherClient:
    """Use as `async with TeacherClient(["a:50051", "b:50051"]) as teacher`, or with one address, or "dns:///name:50051".

    `tokenizer_fingerprint` (protos.fingerprint) is compared on connecting, before any rollout is made; a difference
    in `processor_fingerprint` is a warning.
    `max_inflight_tokens` bounds the response tokens that wait for their scores on each replica; callers beyond it wait.
    `deadline_s` is used for items without one of their own, and counts anew on another replica.
    `outage_s` is how long a call waits while no replica is there; after it TeacherAway is raised.
    `hedge_after_s`: a response that has waited so long is asked of a second replica as well; the first answer counts.
    `cache` is asked first, and given every answer.

    Every method raises a `TeacherError`; one item's error leaves the others alone.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        tokenizer_fingerprint: str = "",
        processor_fingerprint: str = "",
        max_inflight_tokens: int = 65_536,
        deadline_s: float = 600.0,
        connect_timeout_s: float = 30.0,
        outage_s: float = 60.0,
        hedge_after_s: float | None = None,
        credentials: Credentials | None = None,
        cache: ScoreCache | None = None,
    ) -> None:
        self.stats = WireStats()
        self._deadline_s = deadline_s
        self._hedge_after_s = hedge_after_s
        self._cache = cache
        settings = ConnectionSettings(
            tokenizer_fingerprint,
            processor_fingerprint,
            max_inflight_tokens,
            deadline_s,
            credentials or Credentials(),
        )
        self._replicas = ReplicaSet(
            [addresses] if isinstance(addresses, str) else addresses,
            settings,
            self.stats,
            connect_timeout_s,
            outage_s,
        )
        self._response_tokens = GUESSED_TOKENS
        self._closed = False

    async def __aenter__(self) -> TeacherClient:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> TeacherInfo:
        """Reach the replicas, refuse a foreign tokenizer, and whichever is another teacher than the others."""
        return await self._replicas.connect()

    async def close(self) -> None:
        """End every stream; what still waits fails with Cancelled."""
        self._closed = True
        await self._replicas.close()

    @property
    def info(self) -> TeacherInfo:
        """Who the teacher is; known once connected."""
        if self._replicas.info is None:
            raise Unavailable("the client is not connected; use `async with` or call connect()")
        return self._replicas.info

    @property
    def replicas(self) -> dict[str, str]:
        """Address -> state: connecting, up, draining, away, refused."""
        return {replica.address: replica.state for replica in self._replicas.replicas}

    # ------------------------------------------------------------------------------------ calls

    async def put_prompt(self, prompt: AnyPrompt) -> PutPrompt:
        """Hand over a prompt; returns once a replica has decoded and expanded it, within `deadline_s`."""
        put = PutPrompt(prompt)
        await self._until_answered(lambda: self._place(put), self._deadline_s)
        return put

    async def drop_prompt(self, prompt: PutPrompt) -> None:
        """Let the teacher forget a prompt; responses under way are still scored."""
        prompt.dropped = True
        self._forget_if_idle(prompt)

    def cached(self, prompt: AnyPrompt, item: ScoreItem) -> Scores | None:
        """Scores that the cache holds; nothing is sent."""
        if self._cache is None:
            return None
        return self._cache.get(score_key(self.info, prompt, item))

    async def score(self, prompt: PutPrompt, item: ScoreItem) -> Scores:
        """Scores of one response. Cancelling the awaiting task takes the item back."""
        if (known := self.cached(prompt.prompt, item)) is not None:
            return known
        if prompt.dropped:
            raise PreconditionFailed("the prompt was dropped; put it again")
        self._response_tokens += (_expected_tokens(item) - self._response_tokens) / 100
        deadline_s = self._deadline_s if item.deadline_s is None else item.deadline_s
        prompt.under_way += 1
        try:
            scores = await self._until_answered(lambda: self._ask(prompt, item), deadline_s)
        finally:
            prompt.under_way -= 1
            if prompt.dropped:
                self._forget_if_idle(prompt)
        if self._cache is not None:
            self._cache.put(score_key(self.info, prompt.prompt, item), scores)
        return scores

    # ---------------------------------------------------------------------------------- replicas

    async def _until_answered(self, attempt: Callable[[], Awaitable[T]], deadline_s: float) -> T:
        """Repeat what failed for the replica's sake, not for the item's: its stream ended, or it had no room.

        "No room" is repeated until the deadline, which a lost stream lets begin anew.
        """
        losses = 0
        wait = Backoff(*WAIT_S)
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + deadline_s
        while True:
            try:
                return await attempt()
            except TeacherAway:
                raise
            except Unavailable as error:
                if self._closed:
                    raise
                losses += 1
                if losses >= MAX_LOSSES:
                    raise InternalFault(
                        f"{losses} times this item met a replica that went away ({error.message}); it may be the item "
                        "that ends them",
                        ErrorDetail("attempts", str(losses), str(MAX_LOSSES)),
                    ) from error
                await asyncio.sleep(wait.next_s())
                ends_s = loop.time() + deadline_s
            except LimitExceeded as error:
                hint_s = error.detail.retry_after_ms / 1000
                wait_s = hint_s + wait.next_s()
                if not hint_s or loop.time() + wait_s > ends_s:
                    raise
                await asyncio.sleep(wait_s)

    async def _ask(self, prompt: PutPrompt, item: ScoreItem) -> Scores:
        if self._hedge_after_s is None:
            return await self._ask_its_replica(prompt, item)
        primary = asyncio.create_task(self._ask_its_replica(prompt, item))
        try:
            await asyncio.wait({primary}, timeout=self._hedge_after_s)
            other = self._replicas.best(but=prompt.replica)
            if primary.done() or other is None:
                return await primary
            return await _first(primary, asyncio.create_task(self._ask_once(other, prompt, item)))
        finally:
            primary.cancel()

    async def _ask_its_replica(self, prompt: PutPrompt, item: ScoreItem) -> Scores:
        await self._place(prompt)
        replica, connection, held = prompt.replica, prompt.connection, prompt.held
        assert replica is not None, "a placed prompt has its replica"
        assert connection is not None, "and its stream"
        assert held is not None, "and its handle"
        tokens = _expected_tokens(item)
        # What was promised for it is now certain.
        promised = min(prompt.promised_tokens, self._response_tokens)
        prompt.promised_tokens -= promised
        replica.promised_tokens += tokens - promised
        try:
            return await connection.score(held, item)
        finally:
            replica.promised_tokens -= tokens

    async def _ask_once(self, replica: Replica, prompt: PutPrompt, item: ScoreItem) -> Scores:
        """On a replica that does not hold the prompt."""
        connection = replica.connection
        if connection is None:
            raise Unavailable(f"{replica.address} went away")
        held = await connection.put_prompt(prompt.prompt)
        tokens = _expected_tokens(item)
        replica.promised_tokens += tokens
        try:
            return await connection.score(held, item)
        finally:
            replica.promised_tokens -= tokens
            connection.forget_prompt(held)

    async def _place(self, prompt: PutPrompt) -> None:
        """See to it that a replica which is up holds the prompt."""
        since_s = asyncio.get_running_loop().time()
        async with prompt.placing:
            if self._is_placed(prompt):
                return
            if self._closed:
                raise Cancelled("the client was closed")
            self._leave(prompt)
            # A prompt's responses wait for one another here, but not for `outage_s` each.
            replica = await self._replicas.choose(since_s=since_s)
            connection = replica.connection
            assert connection is not None, "a replica that is up has a connection"
            # Counted before the answer: prompts that are put at once must not all go to the same replica.
            promised = max(1, prompt.prompt.expected_responses) * self._response_tokens
            prompt.replica, prompt.promised_tokens = replica, promised
            replica.promised_tokens += promised
            try:
                held = await connection.put_prompt(prompt.prompt)
            except BaseException:
                self._leave(prompt)
                raise
            prompt.connection, prompt.held = connection, held
            prompt.mm_length, prompt.text_length = held.mm_length, held.text_length

    @staticmethod
    def _is_placed(prompt: PutPrompt) -> bool:
        replica = prompt.replica
        if replica is None or prompt.connection is None:
            return False
        return replica.connection is prompt.connection and replica.state == "up"

    def _forget_if_idle(self, prompt: PutPrompt) -> None:
        if not prompt.under_way:
            self._leave(prompt)

    @staticmethod
    def _leave(prompt: PutPrompt) -> None:
        if prompt.replica is not None:
            prompt.replica.promised_tokens -= prompt.promised_tokens
        if prompt.connection is not None and prompt.held is not None:
            prompt.connection.forget_prompt(prompt.held)
        prompt.replica = prompt.connection = prompt.held = None
        prompt.promised_tokens = 0.0


def _expected_tokens(item: ScoreItem) -> float:
    """Exact for ids, a guess for a text."""
    return len(item.response_ids) if item.text is None else len(item.text) / CHARACTERS_PER_TOKEN


async def _first(primary: asyncio.Task[Scores], second: asyncio.Task[Scores]) -> Scores:
    """The first that succeeds; the primary's error where neither does."""
    waiting = {primary, second}
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return task.result()
        return primary.result()
    finally:
        primary.cancel()
        second.cancel()
