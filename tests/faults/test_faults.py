"""What happens to processes and lines, to real ones. In all: every response scored once, and to the bit."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest

from protos.client import TeacherClient
from protos.request_codec import prompt_to_proto
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import TeacherStub
from tests.faults.proxy import Proxy
from tests.faults.teacher_process import TeacherProcess, teachers
from tests.faults.traffic import ENOUGH, History, check, item, prompt, run_traffic
from tests.loopback import serving
from tests.raw_stream import score_message

NOTICED_WITHIN_S = 15.0


@pytest.fixture(scope="module")
def undisturbed(qwen: Path) -> Iterator[str]:
    with serving(qwen, engine={"deterministic": True}) as address:
        yield address


@pytest.fixture
async def reference(undisturbed: str) -> AsyncIterator[TeacherClient]:
    async with TeacherClient(undisturbed) as teacher:
        yield teacher


class Traffic:
    """Runs beside a test's faults; leaving it checks what came back."""

    def __init__(self, teacher: TeacherClient, reference: TeacherClient) -> None:
        self._reference = reference
        self._stopped = False
        self._task = asyncio.create_task(run_traffic(teacher, lambda: self._stopped))
        self.history: History | None = None
        self._moments_s: list[float] = []
        self._teacher = teacher

    async def fault(self) -> float:
        """Wait until there is traffic; the moment at which it is to be disturbed."""
        before = self._teacher.stats.scored_tokens
        while self._teacher.stats.scored_tokens < before + 12 * ENOUGH:
            assert not self._task.done(), self._task.result()
            await asyncio.sleep(0.01)
        self._moments_s.append(time.monotonic())
        return self._moments_s[-1]

    async def end(self) -> History:
        """Once there was traffic after the last fault too."""
        last = self._moments_s[-1]
        await self.fault()
        self._stopped = True
        self._moments_s.pop()
        history = await asyncio.wait_for(self._task, 60)
        await check(history, self._reference, self._moments_s)
        assert history.after(last)
        return history


async def test_a_killed_teacher_comes_back(qwen: Path, tmp_path: Path, reference: TeacherClient):
    with teachers(qwen, tmp_path, 1) as (process,):
        async with TeacherClient(process.address) as teacher:
            traffic = Traffic(teacher, reference)
            for _ in range(2):
                await traffic.fault()
                await asyncio.to_thread(process.kill)
                await asyncio.to_thread(process.start().wait_healthy)
            await traffic.end()


async def test_one_of_three_is_killed(qwen: Path, tmp_path: Path, reference: TeacherClient):
    with teachers(qwen, tmp_path, 3) as processes:
        async with TeacherClient([one.address for one in processes]) as teacher:
            traffic = Traffic(teacher, reference)
            killed_s = await traffic.fault()
            await asyncio.to_thread(processes[1].kill)
            history = await traffic.end()
            assert history.after(killed_s)[0] < 2
            assert teacher.replicas[processes[1].address] != "up"


async def test_a_frozen_teacher_is_noticed(qwen: Path, tmp_path: Path, reference: TeacherClient):
    with teachers(qwen, tmp_path, 2) as (frozen, other):
        async with TeacherClient([frozen.address, other.address]) as teacher:
            traffic = Traffic(teacher, reference)
            frozen_s = await traffic.fault()
            frozen.send(signal.SIGSTOP)
            while teacher.replicas[frozen.address] == "up":
                await asyncio.sleep(0.05)
                assert time.monotonic() - frozen_s < NOTICED_WITHIN_S
            await traffic.end()
            frozen.send(signal.SIGCONT)
            async with asyncio.timeout(30):
                while teacher.replicas[frozen.address] != "up":
                    await asyncio.sleep(0.05)


async def test_a_line_that_is_cut_delayed_and_throttled(undisturbed: str, reference: TeacherClient):
    line = Proxy(undisturbed)
    async with line.running() as through, TeacherClient(through) as teacher:
        traffic = Traffic(teacher, reference)
        for delay_s, bytes_per_s in ((0.0, 0.0), (0.02, 0.0), (0.0, 100_000.0)):
            line.delay_s, line.bytes_per_s = delay_s, bytes_per_s
            await traffic.fault()
            line.cut()
        await traffic.end()
        assert line.connections == 4


async def test_replicas_restarted_one_after_the_other(
    qwen: Path, tmp_path: Path, reference: TeacherClient
):
    with teachers(qwen, tmp_path, 2) as processes:
        async with TeacherClient([one.address for one in processes]) as teacher:
            traffic = Traffic(teacher, reference)
            for process in processes:
                await traffic.fault()
                assert await asyncio.to_thread(process.terminate) == 0
                await asyncio.to_thread(process.start().wait_healthy)
                async with asyncio.timeout(20):
                    while teacher.replicas[process.address] != "up":
                        await asyncio.sleep(0.05)
            history = await traffic.end()
            gaps = (b - a for a, b in itertools.pairwise(sorted(history.answered_s)))
            assert max(gaps) < 5  # the run notices nothing but latency


async def test_sigterm_under_load_loses_nothing(qwen: Path, tmp_path: Path):
    with teachers(qwen, tmp_path, 1) as (process,):
        async with TeacherClient(process.address, outage_s=0) as teacher:
            put = await teacher.put_prompt(prompt(0))
            asked = [asyncio.create_task(teacher.score(put, item(n))) for n in range(200)]
            while len(put.connection._items) + sum(task.done() for task in asked) < len(asked):
                await asyncio.sleep(0)
            await teacher.put_prompt(prompt(1))  # acknowledged, so all before it has been read
            assert not all(task.done() for task in asked), "it was too fast to be disturbed"
            process.send(signal.SIGTERM)
            answers = await asyncio.gather(*asked)
            assert [len(scores.response_ids) for scores in answers] == [
                len(item(n).response_ids) for n in range(200)
            ]
            assert await asyncio.to_thread(process.process.wait, 15) == 0


@contextlib.asynccontextmanager
async def not_reading(address: str, caplog) -> AsyncIterator[grpc.aio.StreamStreamCall]:
    """A caller who asks for more than a stream's buffers hold, and reads nothing, until the server has ended it."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = TeacherStub(channel).Score()
        await call.write(pb.ClientMessage(put_prompt=prompt_to_proto(prompt(0), 1)))
        for number in range(1, 120):
            await call.write(pb.ClientMessage(score=score_message(number, [50] * 400, k=90)))
        async with TeacherClient(address) as polite:
            put = await polite.put_prompt(prompt(1))
            assert len((await polite.score(put, item(1))).response_ids)
        async with asyncio.timeout(20):
            while "code=RESOURCE_EXHAUSTED" not in caplog.text:
                await asyncio.sleep(0.05)
        yield call


async def test_who_does_not_read_is_ended_and_nobody_waits_for_it(qwen: Path, caplog):
    caplog.set_level(logging.INFO)
    server = {"write_timeout_s": 1.0}
    with serving(qwen, server=server) as address:
        async with not_reading(address, caplog) as call:
            code, details = await ending(call)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "nothing was read for 1 s" in details


async def test_who_leaves_without_having_read_its_status_is_no_error(qwen: Path, caplog):
    caplog.set_level(logging.INFO)
    server = {"write_timeout_s": 1.0}
    with serving(qwen, server=server) as address:
        async with not_reading(address, caplog):
            pass  # the status is still on its way
        async with TeacherClient(address) as later:
            put = await later.put_prompt(prompt(1))
            assert len((await later.score(put, item(1))).response_ids)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def ending(call) -> tuple[grpc.StatusCode, str]:
    """Read what is left; the status comes behind it."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass
    return await call.code(), str(await call.details())


async def test_half_closing_loses_nothing(undisturbed: str):
    async with grpc.aio.insecure_channel(undisturbed) as channel:
        call = TeacherStub(channel).Score()
        await call.write(pb.ClientMessage(put_prompt=prompt_to_proto(prompt(0), 1)))
        for number in range(1, 31):
            request = score_message(number, [50, 51])
            await call.write(pb.ClientMessage(score=request))
        await call.done_writing()
        answered = []
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.WhichOneof("message") == "scores":
                answered.append(message.scores.request_id)
        assert sorted(answered) == list(range(1, 31))
        assert await call.code() is grpc.StatusCode.OK


def test_a_teacher_that_cannot_bind_says_so(qwen: Path, tmp_path: Path, undisturbed: str):
    process = TeacherProcess(qwen, tmp_path, server={"port": int(undisturbed.rpartition(":")[2])})
    try:
        process.start()
        assert process.process.wait(60) == 2
        assert "can't bind" in process.log.read_text()
    finally:
        process.close()
