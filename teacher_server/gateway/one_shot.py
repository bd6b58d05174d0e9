"""A prompt and the one answer to it, as HTTP sends them: held as long as they are scored, under the client's quotas."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from protos.errors import DeadlineExceeded, ErrorDetail, TeacherError
from protos.item import ScoreItem
from protos.prompt import ChatPrompt
from protos.scores import Scores
from teacher_server.client import Client
from teacher_server.core import TeacherCore
from teacher_server.engines.engine import PreparedPrompt


class Holding:
    """Bytes that one request holds for its client, in the core's ledger; given back when the context is left."""

    def __init__(self, core: TeacherCore, client: Client) -> None:
        self._ledger = core.ledger
        self._client = client
        self._held = 0

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_: object) -> None:
        self.set(0)

    def set(self, size: int) -> None:
        """So many bytes from now on; raises LimitExceeded where there is no room for more."""
        self._ledger.keep(self._client, size - self._held)
        self._held = size


async def score_once(
    core: TeacherCore, client: Client, prompt: ChatPrompt, item: ScoreItem
) -> tuple[PreparedPrompt, Scores]:
    """Prepare, score, forget. The item's deadline runs from this call. Raises a TeacherError."""
    try:
        async with asyncio.timeout(item.deadline_s):
            return await _score(core, client, prompt, item)
    except TimeoutError as error:
        if isinstance(error, TeacherError):
            raise
        raise DeadlineExceeded(
            f"the deadline of {item.deadline_s:g} s passed before the prompt was ready; allow more time",
            ErrorDetail("deadline_s", f"{item.deadline_s:g}"),
        ) from error


async def _score(
    core: TeacherCore, client: Client, prompt: ChatPrompt, item: ScoreItem
) -> tuple[PreparedPrompt, Scores]:
    with Holding(core, client) as holding:
        holding.set(len(prompt.messages.encode()) + sum(map(len, prompt.images)))
        prepared = await core.prepare(prompt)
        holding.set(prepared.memory_bytes)
        ready: asyncio.Future[PreparedPrompt] = asyncio.get_running_loop().create_future()
        ready.set_result(prepared)
        return prepared, await core.score(ready, item, client)


async def texts_of(core: TeacherCore, ids: Sequence[int]) -> dict[int, str]:
    """The text of each id by itself."""
    distinct = sorted(set(ids))
    return dict(zip(distinct, await core.lone_texts(distinct), strict=True))
