"""Scores for people, as JSON, and for programs, as packed arrays in msgpack. Both say the same, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
from pydantic import BaseModel

from protos.arrays import Floats
from protos.scores import PER_ENTRY, PER_ROW, Scores
from teacher_server.engines.engine import PreparedPrompt
from teacher_server.scoring.summary import Summary


class Candidate(BaseModel):
    """A token that one of the contexts holds likely."""

    id: int
    text: str
    mm_logprob: float
    text_logprob: float


class TokenScore(BaseModel):
    """One token of the answer. Log-probabilities and VDS in nats."""

    id: int
    text: str
    """"" inside a character of several tokens; the one that completes it has the character."""
    vds: float | None
    """KL(mm || text) over the full vocabulary; null where it was not asked for."""
    mm_logprob: float
    """With the images."""
    text_logprob: float
    """Without."""
    top: list[Candidate] | None = None
    """Both contexts' candidates and the token itself, the likeliest with the images first; in mode `topk` alone."""


class AnswerSummary(BaseModel):
    """The tokens in a few numbers."""

    tokens: int
    vds_mean: float | None
    vds_max: float | None
    vds_p90: float | None
    sequence_gain: float
    """Nats: how much likelier the images make the answer."""


class ScoreAnswer(BaseModel):
    """What was scored, token by token."""

    id: str | None = None
    teacher_id: str
    mm_length: int
    """Tokens of the prompt with its images."""
    text_length: int
    """Without."""
    tokens: list[TokenScore]
    summary: AnswerSummary
    queue_s: float
    engine_s: float


def score_answer(
    request_id: str | None, prompt: PreparedPrompt, scores: Scores, texts: Mapping[int, str] | None
) -> ScoreAnswer:
    """For people. `texts` are those of the support's ids; None: the mode has no support."""
    columns = zip(
        scores.response_ids.tolist(),
        scores.token_texts,
        _numbers(scores.vds),
        scores.sampled_mm_logprobs.tolist(),
        scores.sampled_text_logprobs.tolist(),
        strict=True,
    )
    tokens = [
        TokenScore(
            id=token,
            text=text,
            vds=vds,
            mm_logprob=mm,
            text_logprob=without,
            top=None if texts is None else _candidates(scores, row, texts),
        )
        for row, (token, text, vds, mm, without) in enumerate(columns)
    ]
    return ScoreAnswer(
        id=request_id,
        teacher_id=scores.teacher_id,
        mm_length=prompt.mm_length,
        text_length=prompt.text_length,
        tokens=tokens,
        summary=_summary(scores),
        queue_s=scores.queue_s,
        engine_s=scores.engine_s,
    )


def packed_answer(request_id: str | None, prompt: PreparedPrompt, scores: Scores) -> bytes:
    """For programs: a msgpack map, in it `scores`: name -> [dtype, shape, little-endian bytes]."""
    names = ("row_splits", *PER_ENTRY, *PER_ROW)
    arrays = {name: _packed(getattr(scores, name)) for name in names}
    body: dict[str, Any] = {
        "id": request_id,
        "teacher_id": scores.teacher_id,
        "mm_length": prompt.mm_length,
        "text_length": prompt.text_length,
        "scores": arrays,
        "token_texts": list(scores.token_texts),
        "summary": _summary(scores).model_dump(),
        "queue_s": scores.queue_s,
        "engine_s": scores.engine_s,
    }
    return msgpack.packb(body)  # pyright: ignore[reportReturnType]


def _packed(array: np.ndarray) -> list[object]:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return [little.dtype.str, list(little.shape), little.tobytes()]


def _summary(scores: Scores) -> AnswerSummary:
    found = Summary.of(scores.vds, scores.sampled_mm_logprobs, scores.sampled_text_logprobs)
    asked = not np.isnan(scores.vds).all()
    return AnswerSummary(
        tokens=scores.rows,
        vds_mean=found.vds_mean if asked else None,
        vds_max=found.vds_max if asked else None,
        vds_p90=found.vds_p90 if asked else None,
        sequence_gain=found.sequence_gain,
    )


def _numbers(vds: Floats) -> Sequence[float | None]:
    return [None if np.isnan(value) else float(value) for value in vds]


def _candidates(scores: Scores, row: int, texts: Mapping[int, str]) -> list[Candidate]:
    entries = slice(scores.row_splits[row], scores.row_splits[row + 1])
    found = [
        Candidate(id=i, text=texts[i], mm_logprob=mm, text_logprob=text)
        for i, mm, text in zip(
            scores.support_ids[entries].tolist(),
            scores.mm_logprobs[entries].tolist(),
            scores.text_logprobs[entries].tolist(),
            strict=True,
        )
    ]
    return sorted(found, key=lambda candidate: -candidate.mm_logprob)
