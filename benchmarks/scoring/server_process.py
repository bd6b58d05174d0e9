"""A teacher with the chatting engine in a process of its own; see benchmarks.service.server_process.

Its argument is a file of {"serve": ServeConfig, "device": Device, "processor": folder}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from benchmarks.scoring.engine import ChattingEngine
from benchmarks.service.engine import Device
from benchmarks.service.server_process import serve
from teacher_server.config import ServeConfig, TransformersEngineConfig


async def main(config: ServeConfig, device: Device, folder: Path) -> None:
    """Serve until the input ends."""
    named = config.engine
    assert isinstance(named, TransformersEngineConfig), "its batching settings are used"
    engine = ChattingEngine(
        device, named.max_batch_tokens, config.teacher_id, config.limits.published(), folder
    )
    await serve(config, engine)


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    config = ServeConfig.model_validate(settings["serve"])
    asyncio.run(main(config, Device(**settings["device"]), Path(settings["processor"])))
