"""The vllm engine on the toy teacher against three others: the transformers engine, and a plain pass in two precisions.

Float64 tells whose error a difference is: the plain float32 pass has one of its own, and it is not small on a teacher
whose answers lie 20 nats apart.
"""

from __future__ import annotations

import asyncio
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.vllm.peers import Ours
from protos.arrays import Ids, as_ids
from protos.client import PutPrompt, TeacherClient
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores
from teacher_server.config import TransformersEngineConfig
from teacher_server.engines.engine import Job
from teacher_server.engines.transformers_engine import TransformersEngine

TOY = Path("examples/digits")
QUESTIONS = 40
RESPONSES_PER_QUESTION = 5
LONGEST = 40
TOY_K = 8


async def parity() -> dict[str, float]:
    """Largest differences over 200 responses of mixed lengths, each to a real picture."""
    plain = _Plain(TOY / "models" / "teacher", torch.float32)
    exact = _Plain(TOY / "models" / "teacher", torch.float64)
    rng = np.random.default_rng(0)
    rows = pq.read_table(TOY / "data" / "heldout.parquet").slice(0, QUESTIONS).to_pylist()
    cases = [
        (row, as_ids(rng.integers(plain.first_word, plain.words, rng.integers(1, LONGEST + 1))))
        for row in rows
        for _ in range(RESPONSES_PER_QUESTION)
    ]
    answers = await _from_vllm(plain, cases)
    twin = _from_transformers(plain, cases)
    found: dict[str, list[float]] = defaultdict(list)
    supports = 0
    for (row, response), scores, other in zip(cases, answers, twin, strict=True):
        references = {
            reference: tuple(
                reference.logprobs(row, picture, response) for picture in (True, False)
            )
            for reference in (plain, exact)
        }
        for reference, key in ((plain, "err"), (exact, "err_float64")):
            contexts = references[reference]
            found[f"vds_max_abs_{key}"].append(_vds_error(_vds(contexts), scores))
            found[f"logprob_max_abs_{key}"].append(_logprob_error(contexts, scores))
        own = _vds(references[plain]) - _vds(references[exact])
        found["vds_max_abs_err_of_float32_reference"].append(float(np.abs(own).max()))
        twins = np.abs(scores.vds - other.vds)
        found["vds_max_abs_err_transformers_engine"].append(float(twins.max()))
        supports += np.array_equal(scores.support_ids, other.support_ids)
    return {
        **{name: max(errors) for name, errors in found.items()},
        "responses_checked": len(cases),
        "responses_with_equal_support": supports,
    }


def _vds(contexts: tuple[torch.Tensor, ...]) -> np.ndarray:
    """[T], of log-probabilities [T, V] with and without the picture."""
    mm, text = contexts
    return (mm.exp() * (mm - text)).sum(-1).clamp_min(0).double().numpy()


def _vds_error(expected: np.ndarray, scores: Scores) -> float:
    return float(np.abs(expected - scores.vds).max())


def _logprob_error(contexts: tuple[torch.Tensor, ...], scores: Scores) -> float:
    """Of any log-probability or tail."""
    mm, text = contexts
    worst = 0.0
    splits = scores.row_splits
    for full, entries, tails in (
        (mm, scores.mm_logprobs, scores.mm_tail),
        (text, scores.text_logprobs, scores.text_tail),
    ):
        for t in range(scores.rows):
            ids = torch.tensor(scores.support_ids[splits[t] : splits[t + 1]], dtype=torch.long)
            got = torch.from_numpy(entries[splits[t] : splits[t + 1]].copy())
            worst = max(worst, float((got - full[t, ids]).abs().max()))
            outside = torch.ones(full.shape[1], dtype=torch.bool)
            outside[ids] = False
            tail = float(full[t, outside].logsumexp(0))
            worst = max(worst, abs(tail - float(tails[t])))
    return worst


class _Plain:
    """The model's own logits of prompt and response, log-softmax over everything."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.folder = folder
        self._dtype = dtype
        self._model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype).eval()
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        special = self.processor.tokenizer.all_special_ids
        self.first_word, self.words = max(special) + 1, len(self.processor.tokenizer)

    def render(self, row: dict[str, Any], with_picture: bool) -> str:
        parts = [{"type": "image"}] * with_picture + [{"type": "text", "text": row["question"]}]
        messages = [{"role": "user", "content": parts}]
        return self.processor.apply_chat_template(messages, add_generation_prompt=True)

    def prompt(self, row: dict[str, Any]) -> Prompt:
        ids = [
            as_ids(self.processor.tokenizer(self.render(row, w)).input_ids) for w in (True, False)
        ]
        return Prompt(ids[0], ids[1], (row["image"]["bytes"],))

    @torch.inference_mode()
    def logprobs(self, row: dict[str, Any], with_picture: bool, response: Ids) -> torch.Tensor:
        """[T, V]"""
        picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        inputs = dict(
            self.processor(
                text=[self.render(row, with_picture)],
                images=[picture] if with_picture else None,
                return_tensors="pt",
            )
        )
        length = inputs["input_ids"].shape[1]
        answer = torch.tensor(response, dtype=torch.long)[None]
        inputs.pop("attention_mask", None)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
        if "mm_token_type_ids" in inputs:
            types = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(answer)], dim=1)
        if with_picture:
            inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
        self._model.model.rope_deltas = None
        return self._model(**inputs).logits[0, length - 1 : -1].log_softmax(-1)


async def _from_vllm(plain: _Plain, cases: list[tuple[dict[str, Any], Ids]]) -> list[Scores]:
    async with Ours.start(plain.folder) as ours, TeacherClient(ours.address) as teacher:
        puts: dict[int, PutPrompt] = {}
        for row, _ in cases:
            if id(row) not in puts:
                puts[id(row)] = await teacher.put_prompt(plain.prompt(row))
        asked = [teacher.score(puts[id(row)], ScoreItem(ids, k=TOY_K)) for row, ids in cases]
        return await asyncio.gather(*asked)


def _from_transformers(plain: _Plain, cases: list[tuple[dict[str, Any], Ids]]) -> list[Scores]:
    from protos.teacher_info import Limits

    engine = TransformersEngine(
        str(plain.folder),
        TransformersEngineConfig(device="cpu", threads=1),
        teacher_id="twin",
        limits=Limits(),
    )
    found: list[Scores] = []
    for row, ids in cases:
        picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        prepared = engine.prepare(plain.prompt(row), [picture])
        (scores,) = engine.score_batch([Job(prepared, ScoreItem(ids, k=TOY_K))])
        assert isinstance(scores, Scores), scores
        found.append(scores)
    return found
