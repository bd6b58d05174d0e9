"""Rows in, scored rows out: many under way at once, written in the order of the data, none of them twice.

    reader thread ─► budget ─► a task for each row (kept answer, or the teacher's) ─► queue in order ─► shards

Memory is bounded by what is under way, by rows that wait for an earlier one, and by one shard.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from protos.client import TeacherClient
from protos.errors import (
    CODES,
    EchoMismatch,
    InternalFault,
    InvalidItem,
    LimitExceeded,
    TeacherError,
)
from protos.item import ScoreItem
from protos.prompt import ChatPrompt
from protos.score_key import score_key
from protos.scores import Scores
from teacher_server.scoring.background import in_thread
from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.budget import Budget
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.config import ScoreConfig
from teacher_server.scoring.image_folder import ImageFolder
from teacher_server.scoring.progress import Progress
from teacher_server.scoring.row_result import RowResult
from teacher_server.scoring.sample import Sample
from teacher_server.scoring.score_folder import ScoreFolder
from teacher_server.scoring.source import Row, Source, chosen_rows

ROWS_UNDER_WAY = 1024
"""Of each replica; fewer where a row is large."""
BYTES_UNDER_WAY = 64 * 2**20
"""Images and texts; the wire takes two copies of them."""
ROWS_AHEAD = 4096
"""Of the first row that has no answer yet."""
TOKENS_AHEAD = 4 * 2**20
"""Of theirs, a text counted as its bytes."""
SHARD_TOKENS = 2 * 2**20
"""A shard ends with the row that reaches it: some fifty megabytes of memory."""
READ_ROWS, READ_BYTES = 64, 8 * 2**20
"""Read at a time."""
SMALL_BYTES = 2**18
"""Hashed at once; what is larger goes to a thread."""
FAILURES_TOLD = 10
ROW_ERRORS = (InvalidItem, LimitExceeded, InternalFault, EchoMismatch)
"""What a teacher says of one row. Everything else, a deadline too, says of the teacher that it can't score now, and
ends the run.
"""

Save: TypeAlias = Callable[[Sequence[RowResult]], None]
"""Writes rows into the folder."""


class DatasetScorer:
    """One run over the rows that the folder lacks; before them, where that is asked for, over those that failed."""

    def __init__(
        self,
        client: TeacherClient,
        source: Source,
        mapping: ColumnMapping,
        folder: ScoreFolder,
        config: ScoreConfig,
        progress: Progress,
    ) -> None:
        self._client = client
        self._source = source
        self._mapping = mapping
        self._folder = folder
        self._config = config
        self._progress = progress
        self._failures_told = 0
        self._images = ImageFolder(source.folder, config.allow_paths_outside)
        replicas, limits = max(1, len(client.replicas)), client.info.limits
        self._max_response_tokens = limits.max_response_tokens
        self._under_way = Budget(
            {
                "rows": replicas * min(ROWS_UNDER_WAY, max(1, limits.max_prompts // 2)),
                "bytes": BYTES_UNDER_WAY,
                # Twice what the wire takes, so that prompts are there when their turn comes.
                "tokens": replicas * 2 * config.max_inflight_tokens,
            }
        )
        self._ahead = Budget({"rows": ROWS_AHEAD, "tokens": TOKENS_AHEAD})
        self._in_order: asyncio.Queue[tuple[asyncio.Task[RowResult], int] | None] = asyncio.Queue()

    async def run(self) -> None:
        """Raises a TeacherError where the teacher is of no use any more; what was answered is kept."""
        folder, columns = self._folder, self._mapping.columns
        failed = await in_thread(folder.failed_rows) if self._config.retry_failed else []
        self._progress.begin(folder.next_row - len(failed), self._total())
        try:
            await self._score(chosen_rows(self._source, failed, columns), folder.replace)
            rows = self._source.rows(folder.next_row, columns)
            await self._score(itertools.takewhile(self._within_limit, rows), folder.add)
        except BaseExceptionGroup as group:
            raise _first(group) from None

    async def _score(self, rows: Iterator[tuple[int, Row | BadRow]], save: Save) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write(save))
            while batch := await asyncio.to_thread(self._read, rows):
                for sample in batch:
                    await self._begin(sample, tasks)
            self._in_order.put_nowait(None)

    def _within_limit(self, numbered: tuple[int, Row | BadRow]) -> bool:
        return self._config.limit is None or numbered[0] < self._config.limit

    def _total(self) -> int | None:
        known = [n for n in (self._source.expected_rows(), self._config.limit) if n is not None]
        return min(known, default=None)

    # ------------------------------------------------------------------------------------- reading

    def _read(self, rows: Iterator[tuple[int, Row | BadRow]]) -> list[Sample | RowResult]:
        """The next few, in a thread: mapped, images that are files still unread."""
        batch: list[Sample | RowResult] = []
        size = 0
        for number, values in rows:
            try:
                if isinstance(values, BadRow):
                    raise values
                sample = self._mapping.sample(number, values, self._images)
                batch.append(sample)
                size += sample.memory_bytes
            except BadRow as error:
                id = str(number)
                if not isinstance(values, BadRow):
                    with contextlib.suppress(BadRow):  # then it is `error`
                        id = self._mapping.id_of(number, values)
                batch.append(RowResult.failed(number, id, error.code, str(error)))
            if len(batch) >= READ_ROWS or size >= READ_BYTES:
                break
        return batch

    # ------------------------------------------------------------------------------------- scoring

    async def _begin(self, sample: Sample | RowResult, tasks: asyncio.TaskGroup) -> None:
        """Once there is room, a task for the row, in its place in the queue."""
        if isinstance(sample, RowResult):
            await self._ahead.take(rows=1, tokens=0)
            self._in_order.put_nowait((tasks.create_task(_done(sample)), 0))
            return
        item = sample.item(self._config.deadline_s)
        tokens = item.cost(self._max_response_tokens)
        await self._ahead.take(rows=1, tokens=tokens)
        await self._under_way.take(rows=1, bytes=sample.memory_bytes, tokens=tokens)
        self._in_order.put_nowait((tasks.create_task(self._answer(sample, item, tokens)), tokens))

    async def _answer(self, sample: Sample, item: ScoreItem, tokens: int) -> RowResult:
        try:
            prompt, key = await self._prepare(sample, item)
            scores = self._folder.answers.get(sample.row, key)
            if scores is None:
                scores = await self._ask(prompt, item)
                self._folder.answers.put(sample.row, key, scores)
            return RowResult.scored(sample.row, sample.id, scores)
        except BadRow as error:
            return RowResult.failed(sample.row, sample.id, error.code, str(error))
        except ROW_ERRORS as error:
            if error.detail.retry_after_ms:
                raise  # it was asked again until its deadline; that is no fault of the row's
            code = CODES[type(error)].name.lower()
            return RowResult.failed(sample.row, sample.id, code, error.message)
        finally:
            self._under_way.give_back(rows=1, bytes=sample.memory_bytes, tokens=tokens)

    async def _prepare(self, sample: Sample, item: ScoreItem) -> tuple[ChatPrompt, bytes]:
        """The prompt with its images, and the name of its answer. Raises BadRow where an image can't be read."""

        def prepare() -> tuple[ChatPrompt, bytes]:
            prompt = sample.prompt(self._config.text_context)
            return prompt, score_key(self._client.info, prompt, item)

        in_memory = all(image.data is not None for image in sample.images)
        if in_memory and sample.memory_bytes <= SMALL_BYTES:
            return prepare()
        return await asyncio.to_thread(prepare)

    async def _ask(self, prompt: ChatPrompt, item: ScoreItem) -> Scores:
        put = await self._client.put_prompt(prompt)
        try:
            return await self._client.score(put, item)
        finally:
            await self._client.drop_prompt(put)

    # ------------------------------------------------------------------------------------- writing

    async def _write(self, save: Save) -> None:
        """Rows in the order of the data, whatever the order of their answers."""
        results: list[RowResult] = []
        tokens = 0
        while (entry := await self._in_order.get()) is not None:
            task, reserved = entry
            result = await task
            self._ahead.give_back(rows=1, tokens=reserved)
            results.append(result)
            tokens += result.tokens
            self._tell(result)
            if len(results) >= self._config.shard_rows or tokens >= SHARD_TOKENS:
                await in_thread(functools.partial(save, results))
                results, tokens = [], 0
        if results:
            await in_thread(functools.partial(save, results))

    def _tell(self, result: RowResult) -> None:
        self._progress.row_done(result.tokens, self._total())
        if result.error_code is None or self._failures_told > FAILURES_TOLD:
            return
        self._failures_told += 1
        if self._failures_told > FAILURES_TOLD:
            self._progress.note("more rows failed; the columns error_code and error have them all")
            return
        self._progress.note(
            f"row {result.row} (id {result.id}): {result.error_code}: {result.error}"
        )


async def _done(result: RowResult) -> RowResult:
    return result


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended all; others may have come with it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        teacher_errors = [e for e in error.exceptions if isinstance(e, TeacherError)]
        error = (teacher_errors or error.exceptions)[0]
    return error
