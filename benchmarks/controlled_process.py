"""A process that takes and answers lines of JSON on its standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

START_TIMEOUT_S = 300
END_TIMEOUT_S = 60
LINE_BYTES = 2**20


class ControlledProcess:
    """One question at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[ControlledProcess]:
        """Run `python -m module`; leaving the context ends it by closing its input."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            limit=LINE_BYTES,
        )
        try:
            yield cls(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), END_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def read(self) -> dict[str, Any]:
        """The next line that is JSON: a library may print others."""
        assert self._process.stdout is not None
        while line := await asyncio.wait_for(self._process.stdout.readline(), START_TIMEOUT_S):
            if line.startswith(b"{"):
                return json.loads(line)
        raise RuntimeError("the process ended; its log says why")

    async def ask(self, **question: Any) -> dict[str, Any]:
        """Send a line, read the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return await self.read()
