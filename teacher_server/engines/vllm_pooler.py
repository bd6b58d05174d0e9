"""Scores inside vLLM: the pooler of a scoring model.

A vLLM pooler sees every step's hidden states, on the device. It keeps those of response rows, joins the two contexts
of a response, and returns scores instead of embeddings. R rows of a step, D hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.layers.pooler.abstract import Pooler
from vllm.tasks import PoolingTask
from vllm.v1.outputs import PoolerOutput
from vllm.v1.pool.metadata import PoolingMetadata, PoolingStates

from protos.item import ScoreItem
from protos.scores import Scores
from teacher_server.engines.joint_scores import score_items
from teacher_server.engines.pair_table import PairTable
from teacher_server.engines.row_scores import NotFinite, score_rows
from teacher_server.engines.vllm_request import HalfRequest, Outcome, outcome_to_bytes

TASK: PoolingTask = "token_embed"
"""The task whose requests may hold prefill back in chunks and return rows of any number."""


WARM_UP_K = 64


@dataclass(frozen=True, eq=False)
class _Half:
    states: Tensor
    """[T, D]"""
    item: ScoreItem | None


@dataclass(frozen=True, eq=False)
class _Pair:
    index: int
    """Of the request in this step that completed it."""
    item: ScoreItem
    contexts: tuple[Tensor, ...]
    """(mm, text) or (mm,), each [T, D]."""


class ScorePooler(Pooler):
    """Returns u8 tensors (see vllm_request.outcome_to_bytes), one per finished request."""

    def __init__(
        self, head: Callable[[Tensor], Tensor], chunk_rows: int, max_parked_rows: int
    ) -> None:
        super().__init__()
        self._model_head = head
        self._chunk_rows = chunk_rows
        self.parked: PairTable[_Half] = PairTable(max_parked_rows)

    def get_supported_tasks(self) -> Set[PoolingTask]:
        """See Pooler."""
        return {TASK}

    def forward(self, hidden_states: Tensor, pooling_metadata: PoolingMetadata) -> PoolerOutput:
        """One step: `hidden_states` [R, D] of all requests in it, one after the other."""
        cursor = pooling_metadata.get_pooling_cursor()
        counts = cursor.num_scheduled_tokens_cpu.tolist()
        ends = cursor.seq_lens_cpu.tolist()
        finished = cursor.get_finished_mask()
        outputs: list[Tensor | None] = [None] * len(counts)
        complete: list[_Pair] = []
        for i, chunk in enumerate(hidden_states.split(counts)):
            kwargs = pooling_metadata.pooling_params[i].extra_kwargs
            if kwargs is None:  # vLLM's own warm-up, which measures memory
                return self._warm_up(hidden_states, len(counts))
            request = HalfRequest.from_kwargs(kwargs)
            state = pooling_metadata.pooling_states[i]
            _collect(state, chunk, ends[i] - counts[i], request.first_row)
            if not finished[i]:
                continue
            states = _joined(state)
            state.clean()
            if states is None or len(states) != request.rows:
                outputs[i] = _output(Outcome.INCOMPLETE)
            elif (pair := self._join(i, request, states)) is None:
                outputs[i] = _output(Outcome.PARKED)
            else:
                complete.append(pair)
        answers = score_items(
            [pair.item for pair in complete],
            [pair.contexts for pair in complete],
            self._head,
            self._chunk_rows,
        )
        for pair, answer in zip(complete, answers, strict=True):
            found = isinstance(answer, Scores)
            outputs[pair.index] = (
                _output(Outcome.SCORED, answer) if found else _output(Outcome.NOT_FINITE)
            )
        return outputs

    def _join(self, index: int, request: HalfRequest, states: Tensor) -> _Pair | None:
        if request.context == "alone":
            assert request.item is not None, "a lone half carries its item"
            return _Pair(index, request.item, (states,))
        own = _Half(states, request.item)
        other = self.parked.join(request.pair, request.context, own, request.rows)
        if other is None:
            return None
        item = own.item or other.item
        assert item is not None, "one half of a pair carries its item"
        mm, text = (own, other) if request.context == "mm" else (other, own)
        return _Pair(index, item, (mm.states, text.states))

    def _head(self, hidden: Tensor) -> Tensor:
        return self._model_head(hidden).float()

    def _warm_up(self, hidden_states: Tensor, requests: int) -> list[Tensor | None]:
        """Take as much memory as scoring does: a whole chunk of rows, of which a dummy step has fewer."""
        rows = hidden_states[:1].expand(self._chunk_rows, -1)
        response = np.zeros(self._chunk_rows, dtype=np.int32)
        item = ScoreItem(response, k=WARM_UP_K)
        with contextlib.suppress(NotFinite):  # states of a dummy step may be anything
            score_rows(rows, rows.clone(), self._head, item, self._chunk_rows)
        return [_output(Outcome.PARKED)] * requests


def _collect(state: PoolingStates, chunk: Tensor, start: int, first_row: int) -> None:
    """Add the response rows among a chunk that begins at position `start`.

    Rows come in order without gaps, or not at all: a request that was preempted begins again, and one whose cached
    prefix reached past its first row never has them all, which its number of rows tells at the end.
    """
    known = sum(map(len, state.hidden_states_cache))
    rows = chunk[max(0, first_row - start) :]
    if not len(rows):
        return
    offset = max(start, first_row) - first_row
    if offset < known:
        kept = torch.cat(state.hidden_states_cache)[:offset]
        state.hidden_states_cache = [kept] if offset else []
    if offset <= known:
        # They outlive this step, and the next one overwrites its buffer.
        state.hidden_states_cache.append(rows.clone())


def _joined(state: PoolingStates) -> Tensor | None:
    parts = state.hidden_states_cache
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _output(outcome: Outcome, scores: Scores | None = None) -> Tensor:
    return torch.from_numpy(outcome_to_bytes(outcome, scores))
