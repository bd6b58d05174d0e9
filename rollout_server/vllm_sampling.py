# pyright: reportMissingImports=false
# vLLM has an environment of its own.
"""The student's own policy in vLLM's words, and an answer back in the contract's.

T response tokens, C candidates.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from protos.errors import InternalFault
from protos.item import Candidates
from protos.policy import Policy
from protos.rollout_request import RolloutRequest
from protos.sampled_response import SampledResponse


def sampling_params(
    request: RolloutRequest, barred: set[int], seed: int, response: int
) -> SamplingParams:
    """The student's own policy: temperature 1, nothing cut off but what is barred."""
    stream = hashlib.blake2b(seed.to_bytes(8, "little") + response.to_bytes(4, "little"))
    return SamplingParams(
        temperature=0.0 if request.greedy else 1.0,
        top_p=1.0,
        top_k=0,
        seed=None if request.greedy else int.from_bytes(stream.digest()[:8], "little") >> 1,
        max_tokens=request.max_new_tokens,
        # The end of sequence is the client's to name; the stop id stays in the response.
        ignore_eos=True,
        stop_token_ids=request.stop_ids.tolist(),
        # Added to the logits after log-probabilities are taken: minus infinity is a probability of 0, exactly.
        logit_bias=dict.fromkeys(barred, float("-inf")) or None,
        logprobs=request.candidates,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def sampled_response(
    answer: CompletionOutput,
    request: RolloutRequest,
    policy: Policy | None,
    prompt_index: int,
    response_index: int,
) -> SampledResponse:
    """What vLLM answered, as it crosses the wire; InternalFault where other weights than `policy`'s made it."""
    _check_stamp(answer, policy)
    ids = np.array(answer.token_ids, dtype=np.int32)
    table: Any = answer.logprobs
    assert isinstance(table, FlatLogprobs)
    starts = np.array(table.start_indices)
    logprobs = np.array(table.logprobs, dtype=np.float32)
    candidates = None
    if request.candidates:
        # Each row: the sampled id, then the C top ones.
        tops = np.array(table.token_ids)[starts[:, None] + 1 + np.arange(request.candidates)]
        known = tops < (request.vocab_size or np.inf)
        candidates = Candidates(
            splits=np.cumsum([0, *known.sum(1)]).astype(np.int32), ids=tops[known].astype(np.int32)
        )
    return SampledResponse(
        prompt_index=prompt_index,
        response_index=response_index,
        policy=policy,
        response_ids=ids,
        logprobs=logprobs[starts],
        candidates=candidates,
        finished=int(ids[-1]) in request.stop_ids,
    )


def _check_stamp(answer: CompletionOutput, policy: Policy | None) -> None:
    """All tokens must come from `policy`'s weights, by the engine's own account."""
    if policy is not None:
        stamps = [span.version for span in answer.weight_versions or ()]
        if stamps != [str(policy)]:
            raise InternalFault(f"an answer of policy {policy} came from weights {stamps}")
