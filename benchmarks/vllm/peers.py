"""Those who are compared: each runs a workload and says how long it took, what crossed the wire, what decoding cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import numpy as np

from benchmarks.controlled_process import ControlledProcess
from benchmarks.vllm.workload import K, Question, Shape, stock_prompts, workload
from protos.client import TeacherClient
from protos.item import ScoreItem
from teacher_server.config import ServeConfig

MAX_BATCH_TOKENS = 2048
MAX_NUM_SEQS = 64
KV_CACHE_GB = 1
BLOCK_SIZE = 32
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
ENGINE_THREADS = {"ours": 2, "stock in process": 2, "stock server": 1}
"""Each has the number at which it is the faster on two cores: two cost the HTTP server more than its engine gains."""
STOCK_ENVIRONMENT = ENVIRONMENT | {"VLLM_PLUGINS": ""}
"""Without our entry point."""
STOCK_ARGUMENTS: dict[str, Any] = {
    "max_logprobs": K,
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": BLOCK_SIZE,
    "max_num_seqs": MAX_NUM_SEQS,
    "max_num_batched_tokens": MAX_BATCH_TOKENS,
    "kv_cache_memory_bytes": KV_CACHE_GB * 2**30,
}
START_TIMEOUT_S = 300


@dataclass
class Run:
    """One repetition."""

    seconds: float
    wire_bytes: int = 0
    """Both directions."""
    decode_s: float = 0.0
    """Of the client's own thread: from bytes to arrays or dictionaries."""
    support: float = 0.0
    """Mean ids per scored token."""


class Ours:
    """Our server over loopback, and its engine without gRPC in the same process."""

    def __init__(self, process: ControlledProcess, address: str) -> None:
        self.process = process
        self.address = address

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, model: Path, **engine: Any) -> AsyncIterator[Ours]:
        """Serve `model` with the benchmark's settings."""
        settings: dict[str, Any] = {
            "kind": "vllm",
            "threads": ENGINE_THREADS["ours"],
            "enforce_eager": True,
            "block_size": BLOCK_SIZE,
            "max_num_seqs": MAX_NUM_SEQS,
            "max_batch_tokens": MAX_BATCH_TOKENS,
            "kv_cache_gb": KV_CACHE_GB,
            **engine,
        }
        config = ServeConfig.model_validate(
            {"model": str(model), "engine": settings, "server": {"port": 0, "http_port": None}}
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "serve.json"
            path.write_text(config.model_dump_json())
            async with ControlledProcess.start(
                "benchmarks.vllm.ours_process", str(path), environment=ENVIRONMENT
            ) as process:
                yield cls(process, (await process.read())["address"])

    async def over_grpc(self, shape: Shape, seed: int, dtype: Literal["f32", "f16"]) -> Run:
        """Put, score and drop, as a trainer does."""
        return await self.score(workload(shape, seed), dtype)

    async def score(self, questions: list[Question], dtype: Literal["f32", "f16"]) -> Run:
        """Questions at once through one client."""
        async with TeacherClient(self.address) as teacher:
            before = teacher.stats.sent_bytes + teacher.stats.received_bytes
            supports: list[float] = []

            async def answer(question: Question) -> None:
                put = await teacher.put_prompt(question.prompt)
                items = [ScoreItem(ids, k=K, dtype=dtype) for ids in question.responses]
                for scores in await asyncio.gather(*(teacher.score(put, i) for i in items)):
                    supports.append(len(scores.support_ids) / scores.rows)
                await teacher.drop_prompt(put)

            started_s, cpu_s = time.perf_counter(), time.thread_time()
            await asyncio.gather(*map(answer, questions))
            seconds = time.perf_counter() - started_s
            return Run(
                seconds,
                teacher.stats.sent_bytes + teacher.stats.received_bytes - before,
                time.thread_time() - cpu_s,
                float(np.mean(supports)),
            )

    async def in_process(self, shape: Shape, seed: int) -> Run:
        """The same work without gRPC."""
        answer = await self.process.ask(do="score", shape=asdict(shape), seed=seed)
        return Run(answer["seconds"])


class StockServer:
    """vLLM's OpenAI server as TRL drives it: two requests a response, prompt_logprobs, one token generated."""

    def __init__(self, url: str) -> None:
        self._url = url

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, model: Path) -> AsyncIterator[StockServer]:
        """Start it with the settings that ours has."""
        port = _free_port()
        flags = [str(model), "--port", str(port), "--host", "127.0.0.1", "--enable-scale-out"]
        flags += ["--disable-log-stats", "--disable-uvicorn-access-log"]
        for name, value in STOCK_ARGUMENTS.items():
            flag = "--" + name.replace("_", "-")
            flags += [flag] if value is True else [flag, str(value)]
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *flags],
            env=os.environ | _stock_environment("stock server"),
            stdout=subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            await _wait_for_health(url, process)
            yield cls(url)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    async def completions(self, shape: Shape, seed: int) -> Run:
        """/v1/completions"""
        return await self._run("/v1/completions", shape, seed, self._completion)

    async def tokens_in_tokens_out(self, shape: Shape, seed: int) -> Run:
        """/inference/v1/generate"""
        return await self._run("/inference/v1/generate", shape, seed, self._generation)

    @staticmethod
    def _completion(ids: list[int]) -> dict[str, Any]:
        return {"prompt": ids, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": K}

    @staticmethod
    def _generation(ids: list[int]) -> dict[str, Any]:
        params = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": K, "detokenize": False}
        return {"token_ids": ids, "sampling_params": params}

    async def _run(self, path: str, shape: Shape, seed: int, body: Any) -> Run:
        run = Run(0.0)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            self._url, connector=connector, timeout=aiohttp.ClientTimeout(600)
        ) as session:

            async def score(ids: list[int]) -> None:
                data = json.dumps(body(ids)).encode()
                headers = {"Content-Type": "application/json"}
                async with session.post(path, data=data, headers=headers) as response:
                    answer = await response.read()
                    assert response.status == 200, answer[:500]
                run.wire_bytes += len(data) + len(answer)
                started_s = time.thread_time()
                decoded = json.loads(answer)
                run.decode_s += time.thread_time() - started_s
                found = (decoded if "prompt_logprobs" in decoded else decoded["choices"][0])[
                    "prompt_logprobs"
                ]
                assert len(found) == len(ids), "one entry per prompt token"

            started_s = time.perf_counter()
            await asyncio.gather(*map(score, stock_prompts(shape, seed)))
            run.seconds = time.perf_counter() - started_s
        return run


def stock_in_process(
    model: Path,
) -> contextlib.AbstractAsyncContextManager[ControlledProcess]:
    """`stock_process` with the settings that ours has."""
    own = {"model": str(model), "disable_log_stats": True, "skip_tokenizer_init": False}
    return ControlledProcess.start(
        "benchmarks.vllm.stock_process",
        json.dumps(own | STOCK_ARGUMENTS),
        environment=_stock_environment("stock in process"),
    )


def _stock_environment(peer: str) -> dict[str, str]:
    return STOCK_ENVIRONMENT | {"OMP_NUM_THREADS": str(ENGINE_THREADS[peer])}


async def _wait_for_health(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                raise RuntimeError("stock vLLM ended; its log says why")
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.5)
    raise TimeoutError(f"stock vLLM was not healthy within {START_TIMEOUT_S} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
