"""The pooler alone, fed with vLLM's own metadata: what arrives in which steps must not matter."""

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")
pytestmark = pytest.mark.vllm

from vllm import PoolingParams
from vllm.v1.pool.metadata import PoolingMetadata, PoolingStates

from protos.item import ScoreItem
from protos.scores import Scores
from teacher_server.engines.row_scores import score_rows
from teacher_server.engines.vllm_pooler import TASK, ScorePooler
from teacher_server.engines.vllm_request import HalfRequest, Outcome, outcome_from_bytes

WIDTH, VOCABULARY = 8, 40
WEIGHT = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))


def head(hidden: torch.Tensor) -> torch.Tensor:
    return hidden @ WEIGHT.T


class Request:
    """One half as vLLM would run it: all its hidden states, handed over a stretch at a time."""

    def __init__(self, pair: str, context: str, prompt: int, response: list[int], seed: int):
        self.item = ScoreItem(np.array(response, dtype=np.int32), k=3)
        self.half = HalfRequest(
            pair, context, prompt - 1, self.item if context != "mm" else None, len(response)
        )
        self.length = prompt + len(response) - 1
        generator = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(self.length, WIDTH, generator=generator)
        self.state = PoolingStates()
        self.done = 0

    @property
    def rows(self) -> torch.Tensor:
        return self.hidden[self.half.first_row :]


def step(
    pooler: ScorePooler, *stretches: tuple[Request, int]
) -> list[tuple[Outcome, Scores | None] | None]:
    """Run (request, tokens) pairs in one step."""
    params = [PoolingParams(task=TASK, extra_kwargs=r.half.to_kwargs()) for r, _ in stretches]
    counts = np.array([count for _, count in stretches])
    chunks = [r.hidden[r.done : r.done + count] for r, count in stretches]
    for request, count in stretches:
        request.done += count
    metadata = PoolingMetadata(
        prompt_lens=torch.tensor([r.length for r, _ in stretches]),
        prompt_token_ids=None,
        prompt_token_ids_cpu=None,
        pooling_params=params,
        pooling_states=[r.state for r, _ in stretches],
    )
    buffer = torch.cat(chunks)
    metadata.build_pooling_cursor(
        counts, torch.tensor([r.done for r, _ in stretches]), device=buffer.device
    )
    outputs = pooler(buffer, metadata)
    buffer.fill_(float("nan"))  # the next step overwrites it
    return [None if o is None else outcome_from_bytes(o.numpy()) for o in outputs]


def pair(number: int = 0, tokens: int = 5) -> tuple[Request, Request]:
    response = list(range(1, tokens + 1))
    mm = Request(str(number), "mm", 11, response, 2 * number)
    return mm, Request(str(number), "text", 6, response, 2 * number + 1)


def expected(mm: Request, text: Request) -> Scores:
    return score_rows(mm.rows, text.rows, head, text.item, chunk_rows=64)


def new_pooler(max_parked_rows: int = 100) -> ScorePooler:
    return ScorePooler(head, chunk_rows=4, max_parked_rows=max_parked_rows)


def assert_scored(result: tuple[Outcome, Scores | None] | None, wanted: Scores) -> None:
    assert result is not None
    assert result[0] is Outcome.SCORED
    got = result[1]
    assert got is not None
    np.testing.assert_array_equal(got.support_ids, wanted.support_ids)
    for name in ("mm_logprobs", "text_logprobs", "mm_tail", "text_tail", "vds"):
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=1e-5)


@pytest.mark.parametrize("mm_first", [True, False])
def test_either_order_of_arrival(mm_first: bool) -> None:
    pooler = new_pooler()
    mm, text = pair()
    wanted = expected(mm, text)
    first, second = (mm, text) if mm_first else (text, mm)
    assert step(pooler, (first, first.length)) == [(Outcome.PARKED, None)]
    (result,) = step(pooler, (second, second.length))
    assert_scored(result, wanted)
    assert len(pooler.parked) == 0


def test_both_in_one_step_with_others() -> None:
    pooler = new_pooler()
    pairs = [pair(number, tokens=3 + number) for number in range(3)]
    results = step(pooler, *((request, request.length) for both in pairs for request in both))
    for number, both in enumerate(pairs):
        assert results[2 * number] == (Outcome.PARKED, None)
        assert_scored(results[2 * number + 1], expected(*both))


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 12])
def test_prefill_in_chunks(size: int) -> None:
    pooler = new_pooler()
    mm, text = pair()
    wanted = expected(mm, text)
    results: list[tuple[Outcome, Scores | None] | None] = []
    for request in (mm, text):
        while request.done < request.length:
            count = min(size, request.length - request.done)
            results += step(pooler, (request, count))
    assert [r[0] for r in results if r is not None] == [Outcome.PARKED, Outcome.SCORED]
    assert_scored(results[-1], wanted)


def test_a_preempted_request_begins_again() -> None:
    pooler = new_pooler()
    mm, text = pair()
    wanted = expected(mm, text)
    step(pooler, (text, text.length))
    step(pooler, (mm, 13))
    mm.done = 4  # vLLM lost its blocks, and found some of its prefix again
    step(pooler, (mm, 8))
    (result,) = step(pooler, (mm, mm.length - mm.done))
    assert_scored(result, wanted)


def test_a_cached_prefix_within_the_prompt_is_fine() -> None:
    pooler = new_pooler()
    mm, text = pair()
    wanted = expected(mm, text)
    mm.done, text.done = 10, 4  # all of the prompt but its last token
    step(pooler, (mm, mm.length - 10))
    (result,) = step(pooler, (text, text.length - 4))
    assert_scored(result, wanted)


@pytest.mark.parametrize("reached", [11, 12, 14])
def test_a_cached_prefix_past_the_first_row_is_not_scored(reached: int) -> None:
    pooler = new_pooler()
    mm, text = pair()
    wanted = expected(mm, text)
    step(pooler, (text, text.length))
    mm.done = reached
    assert step(pooler, (mm, mm.length - reached)) == [(Outcome.INCOMPLETE, None)]
    assert pooler.parked.keys() == ["0"]  # the text half waits on
    again, _ = pair()
    (result,) = step(pooler, (again, again.length))
    assert_scored(result, wanted)


def test_a_prompt_without_an_image_needs_no_partner() -> None:
    pooler = new_pooler()
    alone = Request("0", "alone", 6, [1, 2, 3], 5)
    (result,) = step(pooler, (alone, alone.length))
    assert_scored(result, score_rows(alone.rows, None, head, alone.item, chunk_rows=64))
    assert result is not None
    assert result[1] is not None
    assert result[1].vds.tolist() == [0.0] * 3


def test_an_evicted_half_leaves_its_partner_parked() -> None:
    pooler = new_pooler(max_parked_rows=5)
    first, second = pair(1), pair(2)
    step(pooler, (first[0], first[0].length))
    step(pooler, (second[0], second[0].length))
    assert step(pooler, (first[1], first[1].length)) == [(Outcome.PARKED, None)]
    assert pooler.parked.keys() == ["1"]


def test_nan_is_the_fault_of_its_own_pair() -> None:
    pooler = new_pooler()
    bad, good = pair(1), pair(2)
    bad[0].hidden[12] = float("nan")
    wanted = expected(*good)
    results = step(pooler, *((request, request.length) for request in (*bad, *good)))
    assert results[1] == (Outcome.NOT_FINITE, None)
    assert_scored(results[3], wanted)


def test_vllms_warm_up_is_answered() -> None:
    pooler = new_pooler()
    metadata = PoolingMetadata(
        prompt_lens=torch.tensor([6, 6]),
        prompt_token_ids=None,
        prompt_token_ids_cpu=None,
        pooling_params=[PoolingParams(task=TASK)] * 2,
        pooling_states=[PoolingStates(), PoolingStates()],
    )
    metadata.build_pooling_cursor(
        np.array([6, 6]), torch.tensor([6, 6]), device=torch.device("cpu")
    )
    rows: list[int] = []

    def watched(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return head(hidden)

    pooler._model_head = watched
    for states in (torch.randn(12, WIDTH), torch.full((12, WIDTH), float("nan"))):
        outputs = pooler(states, metadata)
        assert isinstance(outputs, list)
        assert all(isinstance(output, torch.Tensor) for output in outputs)
        assert len(outputs) == 2
    assert set(rows) == {
        4
    }  # a whole chunk, though each request has 6 tokens and a step might have fewer
    assert len(pooler.parked) == 0
