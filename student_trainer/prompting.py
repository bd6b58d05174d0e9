"""A sample as the student and the teacher read it: the chat template rendered in both contexts, and expanded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from protos.arrays import Ids
from protos.expansion import ExpandedImage, expand_image, placeholder_token, splice
from protos.fingerprint import processor_fingerprint, tokenizer_fingerprint
from protos.prompt import GREY, Prompt
from protos.prompt_ids import prompt_ids
from student_trainer.data import Sample
from student_trainer.data_config import DataConfig


class PromptTooLong(ValueError):
    """It has more tokens than `data.max_prompt_tokens`."""


@dataclass(frozen=True, eq=False)
class StudentContext:
    """Tokens and image inputs of one context, as the student's model takes them. P expanded tokens."""

    ids: Tensor
    """i64 [P]"""
    token_types: dict[str, Tensor]
    """Per-token inputs, i64 [P], 0 for text."""
    tensors: dict[str, Tensor]
    """Image inputs, concatenated over the images; empty without one."""


@dataclass(frozen=True, eq=False)
class StudentPrompt:
    """One question in both contexts."""

    wire: Prompt
    """As it is put to the teacher: one placeholder per image."""
    mm: StudentContext
    text: StudentContext
    answer: str
    teacher: str = ""
    """Name of the one who scores its responses."""


class PromptBuilder:
    """Renders samples with the student's own processor."""

    def __init__(self, processor: Any, config: DataConfig) -> None:
        self._processor = processor
        self._config = config

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """Of the student's tokenizer; the teacher's must be the same."""
        return tokenizer_fingerprint(self._processor.tokenizer)

    @cached_property
    def processor_fingerprint(self) -> str:
        """Of the student's image processor; the teacher's should be the same."""
        return processor_fingerprint(self._processor)

    @cached_property
    def placeholder_id(self) -> int:
        """The id that stands for one image."""
        return self._processor.tokenizer.convert_tokens_to_ids(placeholder_token(self._processor))

    def build(self, sample: Sample, expected_responses: int) -> StudentPrompt:
        """Both contexts: the same messages, with their images and with the image parts left out or grey.

        Raises PromptTooLong, or another ValueError where an image can't be decoded or the text itself holds an image
        placeholder.
        """
        grey = self._config.text_context == "grey"
        mm_ids = self._render(sample, len(sample.images))
        text_ids = mm_ids if grey or not sample.images else self._render(sample, 0)
        pictures = [decode_image(data) for data in sample.images]
        shown = [Image.new("RGB", p.size, GREY) for p in pictures] if grey else []
        images, in_text = (
            [expand_image(self._processor, picture) for picture in each]
            for each in (pictures, shown)
        )
        wire = Prompt(
            mm_ids=mm_ids,
            text_ids=text_ids,
            images=sample.images,
            tokenizer_fingerprint=self.tokenizer_fingerprint,
            processor_fingerprint=self.processor_fingerprint,
            expected_responses=expected_responses,
            text_context=self._config.text_context,
        )
        mm = _expand(mm_ids, self.placeholder_id, images)
        limit = self._config.max_prompt_tokens
        if limit is not None and len(mm.ids) > limit:
            raise PromptTooLong(
                f"the prompt has {len(mm.ids)} tokens, and data.max_prompt_tokens is {limit}"
            )
        text = _expand(text_ids, self.placeholder_id, in_text) if sample.images else mm
        return StudentPrompt(wire, mm, text, sample.answer, sample.teacher)

    def _render(self, sample: Sample, images: int) -> Ids:
        parts = [part for part in self._parts(sample) if images or part["type"] != "image"]
        messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
        if self._config.system_prompt is not None:
            system = [{"type": "text", "text": self._config.system_prompt}]
            messages.insert(0, {"role": "system", "content": system})
        text = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return prompt_ids(self._processor.tokenizer, text)

    def _parts(self, sample: Sample) -> list[dict[str, str]]:
        """The user's turn: images first, or where the question has marks for them."""
        images, marker = len(sample.images), self._config.image_marker
        texts = sample.question.split(marker) if marker else [sample.question]
        if len(texts) == 1:
            first: list[dict[str, str]] = [{"type": "image"}] * images
            return [*first, {"type": "text", "text": self._config.after_images + sample.question}]
        if len(texts) - 1 != images:
            raise ValueError(
                f"the question has {len(texts) - 1} {marker!r} for {images} images; write one for each, or none"
            )
        parts: list[dict[str, str]] = []
        for i, text in enumerate(texts):
            if i:
                parts.append({"type": "image"})
            if text:
                parts.append({"type": "text", "text": text})
        return parts


def decode_image(data: bytes) -> Image.Image:
    """RGB with EXIF orientation applied: the contract's rule, so that both sides see the same pixels.

    Raises ValueError where the file is no whole picture.
    """
    try:
        return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"an image of {len(data)} bytes can't be decoded: {error}") from error


def _expand(ids: Ids, placeholder: int, images: Sequence[ExpandedImage]) -> StudentContext:
    expanded, types = splice(ids, placeholder, images)
    names = images[0].tensors if images else ()
    return StudentContext(
        ids=torch.tensor(expanded, dtype=torch.long),
        token_types={n: torch.tensor(values, dtype=torch.long) for n, values in types.items()},
        tensors={name: torch.cat([image.tensors[name] for image in images]) for name in names},
    )
