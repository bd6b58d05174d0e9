"""One answer, as a rollout server gives it."""

from __future__ import annotations

from dataclasses import dataclass

from protos.arrays import Floats, Ids
from protos.item import Candidates
from protos.policy import Policy


@dataclass(frozen=True, eq=False)
class SampledResponse:
    """T response tokens, all of one policy."""

    prompt_index: int
    """In the request."""
    response_index: int
    """Of its prompt, from 0."""
    policy: Policy | None
    """That gave every token; None: the weights that the server was started with."""
    response_ids: Ids
    """i32 [T], the stop id included where one was reached."""
    logprobs: Floats
    """f32 [T], of the response's own tokens over the whole vocabulary, nats."""
    candidates: Candidates | None
    """The model's own top ids of every step, most likely first; None: none were asked for."""
    finished: bool
    """False where the response was cut at its longest."""
