"""A teacher with the training engine in a process of its own; see benchmarks.service.server_process.

Its argument is a file of {"serve": ServeConfig, "device": Device, "taught": Taught}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.service.engine import Device
from benchmarks.service.server_process import serve
from benchmarks.trainer.engine import Taught, TrainingEngine
from teacher_server.config import ServeConfig, TransformersEngineConfig


async def main(settings: dict[str, Any]) -> None:
    """Serve until the input ends."""
    config = ServeConfig.model_validate(settings["serve"])
    named = config.engine
    assert isinstance(named, TransformersEngineConfig), "its batching settings are used"
    engine = TrainingEngine(
        Device(**settings["device"]),
        named.max_batch_tokens,
        config.teacher_id,
        config.limits.published(),
        Taught(**settings["taught"]),
    )
    await serve(config, engine)


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
