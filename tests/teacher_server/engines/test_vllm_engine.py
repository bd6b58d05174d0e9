"""The vllm engine behind a real server, on a CPU build of vLLM, against a plain full-vocabulary computation."""

import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.vllm,
    # vLLM's front end belongs to one event loop, and starting it takes long: one loop for each engine.
    pytest.mark.asyncio(loop_scope="module"),
]

import psutil
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from protos.client import PutPrompt, TeacherClient
from protos.errors import InternalFault, InvalidItem, Unavailable
from protos.item import Candidates, ScoreItem
from protos.prompt import ChatPrompt, Prompt
from protos.scores import Scores
from teacher_server.config import ServeConfig
from teacher_server.engines.vllm_engine import VllmEngine
from teacher_server.serve import running_server, start_engine
from tests.pictures import encode, noise
from tests.reference import Reference
from tests.tiny_models import make_qwen2_5_vl

QUESTION = "what stands in the picture?"
SETTINGS = {"kv_cache_gb": 0.25, "enforce_eager": True, "threads": 1, "max_num_seqs": 16}
Case = tuple[str, tuple[bytes, ...], np.ndarray]


class Served:
    """A server over a vllm engine, and the plain computation to compare it with."""

    def __init__(self, address: str, engine: VllmEngine, reference: Reference) -> None:
        self.address, self.engine, self.reference = address, engine, reference

    def client(self) -> TeacherClient:
        return TeacherClient(self.address, tokenizer_fingerprint=self.reference.fingerprint)

    async def score(self, cases: list[Case], **item) -> list[Scores]:
        """All at once."""
        async with self.client() as teacher:
            puts: dict[tuple[str, tuple[bytes, ...]], PutPrompt] = {}
            for question, images, _ in cases:
                if (question, images) not in puts:
                    prompt = self.reference.prompt(question, images)
                    puts[question, images] = await teacher.put_prompt(prompt)
            asked = [
                teacher.score(puts[question, images], ScoreItem(response, **item))
                for question, images, response in cases
            ]
            return await asyncio.gather(*asked)

    def check(self, answers: list[Scores], cases: list[Case]) -> None:
        for scores, case in zip(answers, cases, strict=True):
            self.reference.check(scores, *case, tolerance=1e-4)


@contextlib.asynccontextmanager
async def served(folder: Path, **engine) -> AsyncIterator[Served]:
    config = ServeConfig.model_validate(
        {
            "model": str(folder),
            "server": {"port": 0, "http_port": None},
            "engine": {"kind": "vllm", **SETTINGS, **engine},
        }
    )
    running = await start_engine(config)
    assert isinstance(running, VllmEngine)
    async with running_server(config, running) as address:
        yield Served(address, running, Reference.load(folder))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(qwen: Path) -> AsyncIterator[Served]:
    """Prompts are longer than a step, so that prefill comes in chunks; few halves may wait."""
    async with served(qwen, max_batch_tokens=48, max_parked_rows=500) as found:
        yield found


def random_response(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 300, length).astype(np.int32)


async def settled(engine: VllmEngine) -> int:
    """Halves still parked once what was abandoned has been dropped."""
    for _ in range(40):
        if not (parked := await engine.parked_pairs()):
            return 0
        await asyncio.sleep(0.1)
    return parked


async def test_every_number_on_mixed_prompts(server: Served, photographs) -> None:
    temple, flower = photographs
    cases = [
        (QUESTION, (temple,), random_response(1, 12)),
        (QUESTION, (temple,), random_response(2, 1)),
        (QUESTION, (temple,), random_response(3, 70)),
        ("left and right?", (temple, flower), random_response(4, 7)),
        ("left and right?", (flower, temple), random_response(4, 7)),
        ("describe the sky", (), random_response(5, 9)),
        (QUESTION, (noise(1, (33, 70), "WEBP"),), random_response(6, 15)),
    ]
    answers = await server.score(cases, k=5)
    server.check(answers, cases)
    assert np.abs(answers[3].mm_logprobs[:5] - answers[4].mm_logprobs[:5]).max() > 1e-3
    assert answers[5].vds.tolist() == [0.0] * 9
    assert await settled(server.engine) == 0


async def test_support_is_the_union_within_the_students_vocabulary(
    server: Served, photographs
) -> None:
    response = random_response(9, 4)
    rows = [[11, 12], [], [350], [14, 15, 16]]
    case = (QUESTION, photographs[:1], response)
    item = {"k": 3, "candidates": Candidates.from_rows(rows), "vocab_size": 300}
    (scores,) = await server.score([case], **item)
    server.check([scores], [case])
    mm = server.reference.logprobs(*case)[:, :300]
    text = server.reference.logprobs(QUESTION, (), response)[:, :300]
    for t, row in enumerate(rows):
        expected = {i for i in row if i < 300} | {int(response[t])}
        expected |= set(mm[t].topk(3).indices.tolist()) | set(text[t].topk(3).indices.tolist())
        got = scores.support_ids[scores.row_splits[t] : scores.row_splits[t + 1]]
        assert got.tolist() == sorted(expected)


async def test_parts_of_scores_and_masks(server: Served, photographs) -> None:
    """In one step with others that ask for everything."""
    prompt = server.reference.prompt(QUESTION, photographs[:1])
    response = random_response(11, 12)
    mask = np.arange(12) % 3 > 0
    async with server.client() as teacher:
        put = await teacher.put_prompt(prompt)
        items = [
            ScoreItem(response, k=4),
            ScoreItem(response, mode="vds_only"),
            ScoreItem(response, mode="sampled_only"),
            ScoreItem(response, mode="vds_only", response_mask=mask),
        ]
        whole, vds, sampled, masked = await asyncio.gather(*(teacher.score(put, i) for i in items))
    server.check([whole], [(QUESTION, photographs[:1], response)])
    assert np.isnan(sampled.vds).all()
    assert not len(vds.support_ids)
    np.testing.assert_allclose(vds.vds, whole.vds, atol=1e-4)
    np.testing.assert_allclose(masked.vds, whole.vds[mask], atol=1e-4)
    for part in (vds, sampled):
        for name in ("sampled_mm_logprobs", "sampled_text_logprobs"):
            np.testing.assert_allclose(getattr(part, name), getattr(whole, name), atol=1e-4)


async def test_a_grey_context_and_a_response_as_text(server: Served, photographs) -> None:
    answer = "a temple under the sky"
    response = server.reference.ids(answer)
    parts = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    messages = json.dumps([{"role": "user", "content": parts}])
    async with server.client() as teacher:
        put = await teacher.put_prompt(ChatPrompt(messages, photographs[:1], "grey"))
        scores = await teacher.score(put, ScoreItem(response_text=answer, k=4, token_texts=True))
    size = Image.open(io.BytesIO(photographs[0])).size
    blank = encode(np.full((1, 1, 3), 128, np.uint8), "PNG", size)
    mm = server.reference.logprobs(QUESTION, photographs[:1], response)
    text = server.reference.logprobs(QUESTION, (blank,), response)
    vds = (mm.exp() * (mm - text)).sum(-1).clamp_min(0)
    np.testing.assert_allclose(scores.vds, vds, atol=1e-4)
    assert "".join(scores.token_texts) == answer
    assert put.mm_length == put.text_length


async def test_a_whole_vocabulary_has_no_tail(server: Served, photographs) -> None:
    case = (QUESTION, photographs[:1], random_response(8, 3))
    vocabulary = server.engine.info.vocab_size
    (scores,) = await server.score([case], k=vocabulary)
    assert not scores.tail_mask.any()
    server.check([scores], [case])


async def test_a_cached_prefix_never_reaches_into_the_scored_rows(
    server: Served, photographs
) -> None:
    """The same response twice, and responses that begin alike: the cache holds blocks past the prompt's last row."""
    long = random_response(20, 64)
    alike = np.concatenate([long[:40], random_response(21, 9)])
    before = server.engine.prefix_stats.recomputed
    for response in (long, long, alike, long[:33]):
        case = (QUESTION, photographs[:1], response)
        server.check(await server.score([case], k=4), [case])
    assert server.engine.prefix_stats.recomputed == before


@pytest.mark.parametrize("length", [63, 64, 65, 96])
async def test_a_prompt_that_ends_with_a_block(server: Served, length: int) -> None:
    """Blocks are of 32 tokens; a prompt of 64 shares one of them, as its last token is a scored row."""
    ids = random_response(length, length)
    async with server.client() as teacher:
        put = await teacher.put_prompt(Prompt(ids, ids))
        stats = server.engine.prefix_stats
        before, cached = stats.recomputed, stats.cached["alone"]
        items = [ScoreItem(random_response(i, 5), k=2) for i in range(3)]
        for item in items:
            await teacher.score(put, item)
    assert stats.recomputed == before
    assert stats.cached["alone"] - cached == 2 * 32 * ((length - 1) // 32)


async def test_an_incomplete_half_is_run_again_without_the_cache(
    server: Served, photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever made its first rows go missing."""
    from teacher_server.engines import vllm_engine
    from teacher_server.engines.vllm_request import Outcome

    real, lied = vllm_engine.outcome_from_bytes, []

    def first_is_incomplete(data: np.ndarray):
        if not lied:
            lied.append(1)
            return Outcome.INCOMPLETE, None
        return real(data)

    monkeypatch.setattr(vllm_engine, "outcome_from_bytes", first_is_incomplete)
    before = server.engine.prefix_stats.recomputed
    case = (QUESTION, photographs[:1], random_response(77, 20))
    server.check(await server.score([case], k=4), [case])
    assert lied
    assert server.engine.prefix_stats.recomputed <= before + 1
    assert await settled(server.engine) == 0


def test_a_prompts_responses_go_to_one_copy_and_prompts_are_spread() -> None:
    from teacher_server.engines.vllm_engine import rank_of

    digests = [bytes([i]) * 32 for i in range(100)]
    ranks = [rank_of(digest, 4) for digest in digests]
    assert ranks == [rank_of(digest, 4) for digest in digests]
    assert set(ranks) == {0, 1, 2, 3}
    assert {rank_of(digest, 1) for digest in digests} == {0}


async def test_responses_to_one_prompt_share_its_prefix(server: Served) -> None:
    image = noise(30, (96, 96), "PNG")
    cases = [(QUESTION, (image,), random_response(40 + i, 6)) for i in range(8)]
    stats = server.engine.prefix_stats
    cached = stats.cached.copy()
    server.check(await server.score(cases[:1], k=4), cases[:1])
    assert stats.cached["mm"] == cached["mm"]
    server.check(await server.score(cases[1:], k=4), cases[1:])
    async with server.client() as teacher:
        put = await teacher.put_prompt(server.reference.prompt(QUESTION, (image,)))
    blocks = (put.mm_length - 1) // 32, (put.text_length - 1) // 32
    assert blocks[0] >= 1
    assert stats.cached["mm"] - cached["mm"] >= 7 * 32 * blocks[0]
    assert stats.cached["text"] - cached["text"] >= 7 * 32 * blocks[1]
    assert 0 < stats.hit_rate("mm") < 1


async def test_cancelled_items_leave_nothing_behind(server: Served, photographs) -> None:
    chance = random.Random(5)
    prompt = server.reference.prompt(QUESTION, photographs[:1])
    cases = [(QUESTION, photographs[:1], random_response(100 + i, 8)) for i in range(60)]
    async with server.client() as teacher:
        put = await teacher.put_prompt(prompt)
        tasks = [
            asyncio.create_task(teacher.score(put, ScoreItem(response, k=4)))
            for _, _, response in cases
        ]
        tasks[0].cancel()  # before anything was sent
        await asyncio.sleep(0.05)
        cancelled = [task for task in tasks if chance.random() < 0.5]
        for task in cancelled:
            task.cancel()
            await asyncio.sleep(chance.random() * 0.02)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [(r, c) for r, c in zip(results, cases, strict=True) if isinstance(r, Scores)]
    lost = [r for r in results if isinstance(r, asyncio.CancelledError)]
    assert len(kept) + len(lost) == 60
    assert len(kept) >= 59 - len(cancelled)
    assert lost
    server.check([scores for scores, _ in kept], [case for _, case in kept])
    assert await settled(server.engine) == 0
    case = cases[0]
    server.check(await server.score([case], k=4), [case])


async def test_halves_nobody_waits_for_are_dropped(server: Served, photographs) -> None:
    """However they were left: here by a request of which only one half was ever made."""
    from vllm import PoolingParams
    from vllm.inputs import tokens_input

    from teacher_server.engines.vllm_pooler import TASK
    from teacher_server.engines.vllm_request import HalfRequest

    half = HalfRequest("left behind", "text", 4, ScoreItem(random_response(1, 3), k=2), 3)
    params = PoolingParams(task=TASK, extra_kwargs=half.to_kwargs())
    llm = server.engine._llm
    async for _ in llm.encode(tokens_input([11, 12, 13, 14, 15, 16, 17]), params, "lonely"):
        pass
    assert await server.engine.parked_pairs() == 1
    await server.engine.leftovers.drop_stale()
    assert await server.engine.parked_pairs() == 0


@pytest.mark.parametrize(
    ("response", "word"),
    [
        (np.array([5, 100_000], dtype=np.int32), "100000"),
        (np.empty(0, dtype=np.int32), "empty"),
        (np.full(600, 20, dtype=np.int32), "512"),
    ],
)
async def test_bad_items_cost_only_themselves(
    server: Served, photographs, response: np.ndarray, word: str
) -> None:
    good = random_response(3, 4)
    async with server.client() as teacher:
        put = await teacher.put_prompt(server.reference.prompt(QUESTION, photographs[:1]))
        with pytest.raises(InvalidItem, match=word):
            await teacher.score(put, ScoreItem(response, k=4))
        scores = await teacher.score(put, ScoreItem(good, k=4))
    server.check([scores], [(QUESTION, photographs[:1], good)])


async def test_a_prompt_as_long_as_the_context_is_refused(server: Served) -> None:
    async with server.client() as teacher:
        ids = np.full(512, 20, dtype=np.int32)
        with pytest.raises(InvalidItem, match="512"):
            await teacher.put_prompt(Prompt(ids, ids))


async def test_another_expansion_is_an_error_with_both_lengths(
    server: Served, photographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    renderer = server.engine._renderer
    expand = renderer._expansion
    monkeypatch.setattr(
        renderer, "_expansion", lambda size: replace(expand(size), ids=expand(size).ids[:-1])
    )
    prompt = server.reference.prompt("describe", photographs[:1])
    async with server.client() as teacher:
        with pytest.raises(InternalFault, match=r"expanded .* to (\d+), .* to (\d+)") as caught:
            await teacher.put_prompt(prompt)
    found = re.search(r"to (\d+), .* to (\d+)", caught.value.message)
    assert found is not None
    assert int(found[1]) == int(found[2]) + 1


async def test_describe_tells_the_engine(server: Served) -> None:
    async with server.client() as teacher:
        info = teacher.info
    assert (info.engine, info.dtype, info.context_length) == ("vllm", "float32", 512)
    assert info.vocab_size == server.reference.model.get_output_embeddings().weight.shape[0]
    assert not info.deterministic
    assert any(name.startswith("vllm") for name in info.versions)


async def test_another_family_in_long_steps(tmp_path: Path, photographs) -> None:
    """Qwen2.5-VL, and whole prompts in a step with others."""
    folder = make_qwen2_5_vl(tmp_path / "qwen2_5", seed=2)
    temple, flower = photographs
    cases = [
        (QUESTION, (temple,), random_response(1, 12)),
        (QUESTION, (temple,), random_response(2, 30)),
        ("left and right?", (flower, temple), random_response(4, 7)),
        ("describe the sky", (), random_response(5, 9)),
    ]
    async with served(folder, max_batch_tokens=2048) as found:
        found.check(await found.score(cases, k=5), cases)
        assert await settled(found.engine) == 0


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["tensor_parallel_size", "data_parallel_size"])
async def test_two_ranks(qwen: Path, photographs, parallel: str) -> None:
    """Split or doubled, the answers are the same, and nothing stays parked on any rank."""
    cases = [
        (QUESTION, (noise(i, (64, 64), "PNG"),), random_response(10 * i + j, 5 + j))
        for i in range(4)
        for j in range(3)
    ]
    async with served(qwen, max_batch_tokens=64, **{parallel: 2}) as found:
        for _ in range(2):  # the second time from the cache
            found.check(await found.score(cases, k=5), cases)
        assert await settled(found.engine) == 0
        assert found.engine.prefix_stats.cached["mm"] > 0


@pytest.fixture
def process(qwen: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    port_file = tmp_path / "port"
    flags = [f"--engine.{k.replace('_', '-')}={v}" for k, v in SETTINGS.items() if v is not True]
    command = [
        *(sys.executable, "-m", "teacher_server", "serve", "--model", str(qwen)),
        *("--engine.kind", "vllm", "--engine.enforce-eager", *flags),
        *("--server.port", "0", "--server.port-file", str(port_file)),
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as started:
        yield started, port_file
        if started.poll() is None:
            started.kill()


async def test_when_the_engine_dies_all_is_told(
    process: tuple[subprocess.Popen[bytes], Path], server: Served, photographs
) -> None:
    serving, port_file = process
    async with asyncio.timeout(240):
        while not port_file.exists():
            assert serving.poll() is None
            await asyncio.sleep(0.2)
    address = port_file.read_text()
    reference = server.reference
    async with TeacherClient(address, tokenizer_fingerprint=reference.fingerprint) as teacher:
        put = await teacher.put_prompt(reference.prompt(QUESTION, photographs[:1]))
        items = [ScoreItem(random_response(i, 60), k=4) for i in range(64)]
        tasks = [asyncio.create_task(teacher.score(put, item)) for item in items]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        engine = [p for p in psutil.Process(serving.pid).children() if "Engine" in p.name()]
        assert engine
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            os.kill(engine[0].pid, signal.SIGKILL)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        results = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [r for r in results if not isinstance(r, Scores)]
        assert failed
        assert all(isinstance(r, Unavailable) for r in failed), failed
    assert await asyncio.to_thread(serving.wait, 60) == 1
