"""`python -m benchmarks.scoring`, from the repository root: writes benchmarks/results/scoring.json.

A data set of short rows through the real command's code, the real client, wire and server, over an engine that sleeps
for a stated time per response token. Its throughput against what that time allows, and the client's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.controlled_process import ControlledProcess
from benchmarks.scoring.rows import RESPONSE, SIZE, write_rows
from benchmarks.service.engine import Device
from benchmarks.service.gauges import Neighbours
from teacher_server.config import ServeConfig

RESULTS = Path("benchmarks/results/scoring.json")
PROCESSOR = Path("examples/digits/models/teacher")
TOKENS_PER_S = 12_000
"""Response tokens a second. One H100 with Qwen3-VL-8B scores 27,000 where eight responses share a prompt; here each has
a prompt and a picture of its own.
"""
PACKAGES = ("grpcio", "numpy", "pyarrow", "transformers")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


async def main() -> None:
    """Make the rows, score them, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tokens-per-s", type=float, default=TOKENS_PER_S)
    arguments = parser.parse_args()
    device = Device(1 / arguments.tokens_per_s)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.parquet"
        write_rows(data, arguments.rows, PROCESSOR)
        neighbours = Neighbours()
        figures = await score(data, Path(folder), device)
        figures |= neighbours.figures("scoring")
    offered = arguments.tokens_per_s * figures["rows"] / figures["tokens"]
    result = figures | {
        "engine": "simulated: sleeps for a stated device time per response token, in mode vds_only",
        "engine_tokens_per_s": arguments.tokens_per_s,
        "engine_rows_per_s": offered,
        "throughput_over_engine": figures["rows_per_s"] / offered,
        "response_tokens": RESPONSE,
        "image_pixels": SIZE,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": sys.version.split()[0]}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": datetime.date.today().isoformat(),
    }
    partial = arguments.out.with_name(arguments.out.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(arguments.out)
    print(json.dumps(result, indent=1))


async def score(data: Path, folder: Path, device: Device) -> dict[str, Any]:
    """A server and a client, each in a process of its own."""
    server = {"port": 0, "http_port": None, "grace_s": 2}
    config = ServeConfig.model_validate({"server": server})
    settings = folder / "settings.json"
    settings.write_text(
        json.dumps(
            {
                "serve": config.model_dump(mode="json"),
                "device": asdict(device),
                "processor": str(PROCESSOR),
            }
        )
    )
    start = ControlledProcess.start(
        "benchmarks.scoring.server_process", str(settings), environment=ENVIRONMENT
    )
    async with start as process:
        address = (await process.read())["address"]
        before = await process.ask(do="state")
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.scoring.client_process"),
            *(address, str(data), str(folder / "out")),
            stdout=subprocess.PIPE,
        )
        out, _ = await client.communicate()
        if client.returncode:
            raise RuntimeError(f"the client ended with status {client.returncode}")
        after = await process.ask(do="state")
    told = json.loads(out.splitlines()[-1])
    return {
        "rows": told["rows"],
        "tokens": told["tokens"],
        "seconds": told["seconds"],
        "rows_per_s": told["rows"] / told["seconds"],
        "client_baseline_mib": told["baseline_mib"],
        "client_peak_growth_mib": told["peak_mib"] - told["baseline_mib"],
        "client_curve_mib": told["curve_mib"],
        "client_cpu_ms_per_row": 1000 * told["cpu_s"] / told["rows"],
        "server_cpu_ms_per_row": 1000 * (after["cpu_s"] - before["cpu_s"]) / told["rows"],
        "server_growth_mib": after["resident_mib"] - before["resident_mib"],
    }


if __name__ == "__main__":
    asyncio.run(main())
