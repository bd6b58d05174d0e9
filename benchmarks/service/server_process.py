"""A teacher with the simulated engine in a process of its own.

Its argument is a file of {"serve": ServeConfig, "device": Device}. One JSON object a line in, one out:
{"do": "state"} -> resident MiB, CPU seconds, tokens served by client; {"do": "profile"} begins a profile of the event
loop's thread, the next one ends it -> seconds by function.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.service.engine import Device, SimulatedEngine
from benchmarks.service.gauges import Profile, resident_mib
from teacher_server.batcher import Batcher
from teacher_server.config import ServeConfig, TransformersEngineConfig
from teacher_server.metrics import Metrics
from teacher_server.serve import running_server


async def main(config: ServeConfig, device: Device) -> None:
    """Serve until the input ends."""
    named = config.engine
    assert isinstance(named, TransformersEngineConfig), "its batching settings are used"
    limits = config.limits.published()
    await serve(config, SimulatedEngine(device, named.max_batch_tokens, config.teacher_id, limits))


async def serve(config: ServeConfig, engine: SimulatedEngine) -> None:
    """Until the input ends."""
    named = config.engine
    assert isinstance(named, TransformersEngineConfig), "its batching settings are used"
    metrics = Metrics()
    batcher = await Batcher.start(
        lambda: engine, named.batch_wait_ms / 1000, named.score_batch_tokens, metrics
    )
    profile: Profile | None = None
    async with running_server(config, batcher, metrics) as address:
        print(json.dumps({"address": address}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            answer: dict[str, Any] = {}
            if json.loads(line)["do"] == "state":
                answer = {
                    "resident_mib": resident_mib(),
                    "cpu_s": time.process_time(),
                    "served": dict(engine.served),
                }
            elif profile is None:
                profile = Profile()
            else:
                answer, profile = {"shares": profile.shares()}, None
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(main(ServeConfig.model_validate(settings["serve"]), Device(**settings["device"])))
