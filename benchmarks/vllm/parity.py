"""The vllm engine on the toy teacher against two others: a plain float32 forward pass, and the transformers engine."""

from __future__ import annotations

import asyncio
import io
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
    plain = _Plain(TOY / "models" / "teacher")
    rng = np.random.default_rng(0)
    rows = pq.read_table(TOY / "data" / "heldout.parquet").slice(0, QUESTIONS).to_pylist()
    cases = [
        (row, as_ids(rng.integers(plain.first_word, plain.words, rng.integers(1, LONGEST + 1))))
        for row in rows
        for _ in range(RESPONSES_PER_QUESTION)
    ]
    answers = await _from_vllm(plain, cases)
    twin = _from_transformers(plain, cases)
    worst_vds = worst_logprob = 0.0
    supports = 0
    for (row, response), scores, other in zip(cases, answers, twin, strict=True):
        vds_error, logprob_error = plain.errors(row, response, scores)
        worst_vds, worst_logprob = max(worst_vds, vds_error), max(worst_logprob, logprob_error)
        supports += np.array_equal(scores.support_ids, other.support_ids)
    return {
        "vds_max_abs_err": worst_vds,
        "logprob_max_abs_err": worst_logprob,
        "vds_max_abs_err_transformers_engine": max(
            float(np.abs(a.vds - b.vds).max()) for a, b in zip(answers, twin, strict=True)
        ),
        "responses_checked": len(cases),
        "responses_with_equal_support": supports,
    }


class _Plain:
    """The model's own logits of prompt and response, log-softmax over everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
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
        self._model.model.rope_deltas = None
        return self._model(**inputs).logits[0, length - 1 : -1].float().log_softmax(-1)

    def errors(self, row: dict[str, Any], response: Ids, scores: Scores) -> tuple[float, float]:
        """Largest error of a VDS, and of any log-probability or tail."""
        contexts = [self.logprobs(row, with_picture, response) for with_picture in (True, False)]
        mm, text = contexts
        vds = (mm.exp() * (mm - text)).sum(-1).clamp_min(0).numpy()
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
        return float(np.abs(vds - scores.vds).max()), worst


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
