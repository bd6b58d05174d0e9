"""Our vllm engine in a process of its own: serves gRPC, and runs workloads without it when told to on its input.

One JSON object a line in, one out: {"do": "score", "shape", "seed"} -> {"seconds"}; {"do": "state"} -> gauges.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import psutil

from benchmarks.vllm.workload import K, Question, Shape, workload
from protos.item import ScoreItem
from teacher_server.config import ServeConfig
from teacher_server.engines.engine import Job
from teacher_server.engines.vllm_engine import VllmEngine
from teacher_server.images import decode_images
from teacher_server.serve import running_server, start_engine


async def score_in_process(engine: VllmEngine, questions: list[Question]) -> None:
    """The engine's part of the work: images decoded, prompts prepared, every response scored."""
    limits = engine.info.limits

    async def answer(question: Question) -> None:
        images = await asyncio.to_thread(decode_images, question.prompt.images, limits)
        prepared = await engine.prepare(question.prompt, images)
        jobs = [Job(prepared, ScoreItem(ids, k=K)) for ids in question.responses]
        await asyncio.gather(*map(engine.score, jobs))

    await asyncio.gather(*map(answer, questions))


async def main(config: ServeConfig) -> None:
    """Serve until the input ends."""
    engine = await start_engine(config)
    assert isinstance(engine, VllmEngine)
    async with running_server(config, engine) as address:
        print(json.dumps({"address": address}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            if asked["do"] == "score":
                questions = workload(Shape(**asked["shape"]), asked["seed"])
                started_s = time.perf_counter()
                await score_in_process(engine, questions)
                answer = {"seconds": time.perf_counter() - started_s}
            else:
                answer = await state(engine)
            print(json.dumps(answer), flush=True)


async def state(engine: VllmEngine) -> dict[str, float]:
    """Gauges: halves that wait or run, resident memory of server and engine processes, prefix hit rates."""
    own = psutil.Process()
    resident = sum(p.memory_info().rss for p in (own, *own.children(recursive=True)))
    rates = {f"hit_rate_{c}": engine.prefix_stats.hit_rate(c) for c in ("mm", "text")}
    parked = await engine.parked_pairs() + engine.unfinished_requests
    return {"parked": parked, "resident_mb": resident / 1e6, **rates}


if __name__ == "__main__":
    settings = ServeConfig.model_validate_json(Path(sys.argv[1]).read_text())
    asyncio.run(main(settings))
