"""Simulated teachers to talk to, and the clients that they know."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.controlled_process import ControlledProcess
from benchmarks.service.engine import Device
from protos.client import TeacherClient
from protos.credentials import Credentials
from teacher_server.client_file import new_token
from teacher_server.config import ServeConfig

ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


class SimulatedServer:
    """A teacher's process, and the tokens of those who may ask it."""

    def __init__(self, process: ControlledProcess, address: str, tokens: dict[str, str]) -> None:
        self.address = address
        self._process = process
        self._tokens = tokens

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls,
        device: Device,
        weights: Mapping[str, float] | None = None,
        **engine: Any,
    ) -> AsyncIterator[SimulatedServer]:
        """Serve with `engine` settings of batching; clients with `weights`, None: whoever comes."""
        with tempfile.TemporaryDirectory() as folder:
            server: dict[str, Any] = {"port": 0, "http_port": None, "grace_s": 2}
            tokens: dict[str, str] = {}
            if weights is not None:
                path = Path(folder) / "clients.toml"
                tokens = _write_clients(path, weights)
                server["clients_file"] = str(path)
            config = ServeConfig.model_validate({"engine": engine, "server": server})
            settings = Path(folder) / "settings.json"
            settings.write_text(
                json.dumps({"serve": config.model_dump(mode="json"), "device": asdict(device)})
            )
            start = ControlledProcess.start(
                "benchmarks.service.server_process", str(settings), environment=ENVIRONMENT
            )
            async with start as process:
                yield cls(process, (await process.read())["address"], tokens)

    def client(self, name: str = "") -> TeacherClient:
        """Not connected yet; `name` is one of the weights'."""
        token = self._tokens[name] if name else ""
        return TeacherClient(self.address, credentials=Credentials(token=token))

    async def state(self) -> dict[str, Any]:
        """Resident MiB, CPU seconds, tokens served by client."""
        return await self._process.ask(do="state")

    async def served(self) -> dict[str, int]:
        """Response tokens so far, by client."""
        return (await self.state())["served"]

    async def profile(self) -> dict[str, float]:
        """Begin a profile (nothing), or end it: shares of time by function."""
        return (await self._process.ask(do="profile")).get("shares", {})


def _write_clients(path: Path, weights: Mapping[str, float]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    lines: list[str] = []
    for name, weight in weights.items():
        tokens[name], digest = new_token()
        lines.append(f'[clients.{name}]\ntoken_sha256 = "{digest}"\nweight = {weight}\n')
    path.write_text("\n".join(lines))
    return tokens
