"""Stock vLLM without its HTTP server: AsyncLLM with prompt log-probabilities as flat arrays, the leanest it offers.

One JSON object a line in, one out: {"shape", "seed"} -> {"seconds"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.vllm.workload import K, Shape, stock_prompts


async def main(arguments: dict[str, object]) -> None:
    """Run workloads until the input ends."""
    llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))  # pyright: ignore[reportArgumentType]
    print(json.dumps({"ready": True}), flush=True)
    params = SamplingParams(max_tokens=1, prompt_logprobs=K, flat_logprobs=True, detokenize=False)
    number = 0

    async def score(ids: list[int]) -> None:
        nonlocal number
        number += 1
        async for _ in llm.generate(TokensPrompt(prompt_token_ids=ids), params, str(number)):
            pass

    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        prompts = stock_prompts(Shape(**asked["shape"]), asked["seed"])
        started_s = time.perf_counter()
        await asyncio.gather(*map(score, prompts))
        print(json.dumps({"seconds": time.perf_counter() - started_s}), flush=True)
    llm.shutdown()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
