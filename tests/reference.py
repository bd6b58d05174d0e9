"""Scores by the plainest means: the model's own logits of prompt and response, log-softmax over everything."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from protos.arrays import Ids, as_ids
from protos.fingerprint import tokenizer_fingerprint
from protos.prompt import Prompt
from protos.scores import Scores


@dataclass
class Reference:
    """A model and its processor, loaded apart from the server."""

    model: Any
    processor: Any

    @classmethod
    def load(cls, folder: Path | str) -> "Reference":
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        return cls(model, AutoProcessor.from_pretrained(folder))

    @property
    def fingerprint(self) -> str:
        return tokenizer_fingerprint(self.processor.tokenizer)

    def ids(self, text: str) -> Ids:
        return as_ids(self.processor.tokenizer(text, add_special_tokens=False).input_ids)

    def render(self, question: str, images: int) -> str:
        parts = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": parts}]
        return self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def prompt(self, question: str, images: tuple[bytes, ...] = (), **hints: Any) -> Prompt:
        """As a client puts it: one placeholder per image."""
        mm_ids = self.ids(self.render(question, len(images)))
        text_ids = self.ids(self.render(question, 0))
        return Prompt(mm_ids, text_ids, images, tokenizer_fingerprint=self.fingerprint, **hints)

    @torch.no_grad()
    def logprobs(self, question: str, images: tuple[bytes, ...], response: Ids) -> torch.Tensor:
        """[T, V] float32, by one forward of what the processor itself makes of text and images."""
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in images]
        inputs = dict(
            self.processor(
                text=[self.render(question, len(images))],
                images=pictures or None,
                return_tensors="pt",
                add_special_tokens=False,
            )
        )
        prompt_length = inputs["input_ids"].shape[1]
        answer = torch.tensor(response, dtype=torch.long)[None]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
        for name in list(inputs):
            if name == "attention_mask":
                del inputs[name]
            elif name.endswith("token_type_ids"):
                inputs[name] = torch.cat([inputs[name], torch.zeros_like(answer)], dim=1)
        if hasattr(self.model.model, "rope_deltas"):
            self.model.model.rope_deltas = None  # left over from the call before
        logits = self.model(**inputs).logits
        return logits[0, prompt_length - 1 : -1].float().log_softmax(-1)

    def check(
        self,
        scores: Scores,
        question: str,
        images: tuple[bytes, ...],
        response: Ids,
        tolerance: float = 1e-5,
        relative: float = 0.0,
    ) -> None:
        """Every number of `scores` against the full vocabulary; `relative` is for f16 log-probabilities."""
        mm = self.logprobs(question, images, response)
        text = self.logprobs(question, (), response)
        vds = (mm.exp() * (mm - text)).sum(-1)
        np.testing.assert_allclose(scores.vds, vds.clamp_min(0), atol=tolerance, rtol=0)
        np.testing.assert_array_equal(scores.response_ids, response)
        for t in range(len(response)):
            entries = slice(scores.row_splits[t], scores.row_splits[t + 1])
            ids = torch.tensor(scores.support_ids[entries], dtype=torch.long)
            outside = torch.ones(mm.shape[1], dtype=torch.bool)
            outside[ids] = False
            assert bool(scores.tail_mask[t]) == bool(outside.any())
            for got, full, tail, sampled in (
                (scores.mm_logprobs, mm, scores.mm_tail, scores.sampled_mm_logprobs),
                (scores.text_logprobs, text, scores.text_tail, scores.sampled_text_logprobs),
            ):
                np.testing.assert_allclose(
                    got[entries], full[t, ids], atol=tolerance, rtol=relative
                )
                assert abs(sampled[t] - float(full[t, int(response[t])])) <= tolerance
                if scores.tail_mask[t]:
                    assert abs(tail[t] - float(full[t, outside].logsumexp(0))) <= tolerance
