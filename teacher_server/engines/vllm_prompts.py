"""Prompts as vLLM's engine takes them: processed once, for all of a prompt's responses.

vLLM's own processor expands the placeholders and prepares the images. What comes back is compared with what the
model's Hugging Face processor expands to, so that a difference is an error and never a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from vllm.config import ModelConfig
from vllm.inputs import EngineInput, MultiModalInput, mm_input, tokens_input
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalKwargsItems
from vllm.utils.jsontree import json_iter_leaves

from protos.arrays import Ids, as_ids
from protos.errors import ErrorDetail, InternalFault, InvalidItem
from protos.expansion import ExpandedImage, expand_image, splice
from protos.fingerprint import image_digest
from protos.prompt import Prompt
from teacher_server.images import grey

SIZES_REMEMBERED = 4096


@dataclass(frozen=True, eq=False)
class VllmPrompt:
    """Both contexts of a prompt, expanded."""

    mm: MultiModalInput | None
    """None where there is no image: the text context is the only one."""
    text_ids: list[int]
    grey: MultiModalInput | None = None
    """The text context where it shows grey images; `text_ids` are its expanded ids."""

    @property
    def mm_ids(self) -> list[int]:
        """Expanded ids of the mm context."""
        return self.text_ids if self.mm is None else self.mm["prompt_token_ids"]

    @property
    def memory_bytes(self) -> int:
        """Of the ids and the processed images."""
        images = sum(
            leaf.nbytes
            for shown in (self.mm, self.grey)
            if shown is not None
            for leaf in json_iter_leaves(shown["mm_kwargs"].get_data())
            if isinstance(leaf, torch.Tensor)
        )
        return images + 8 * (len(self.mm_ids) + len(self.text_ids))


class PromptRenderer:
    """Makes VllmPrompts; one thread at a time."""

    def __init__(self, model_config: ModelConfig, processor: Any, placeholder: int | None) -> None:
        self._processor = processor
        self._placeholder = placeholder
        self._vllm_processor = MULTIMODAL_REGISTRY.create_processor(model_config)
        self._expansion = lru_cache(SIZES_REMEMBERED)(self._expand_size)

    def render(self, prompt: Prompt, images: Sequence[Image.Image]) -> VllmPrompt:
        """Expand both contexts. Raises InvalidItem for an image that is nothing for this model, and InternalFault where
        vLLM expands otherwise than the model's own processor.
        """
        text_ids = prompt.text_ids.tolist()
        if not images:
            return VllmPrompt(None, text_ids)
        # The identity under which vLLM keeps an image is of the bytes that came, never a client's word.
        identities = [image_digest(data).hex() for data in prompt.images]
        mm = self._processed(prompt, images, identities)
        if prompt.text_context == "drop":
            return VllmPrompt(mm, text_ids)
        same = [f"grey {image.width} x {image.height}" for image in images]
        shown = self._processed(prompt, [grey(image) for image in images], same)
        return VllmPrompt(mm, shown["prompt_token_ids"], shown)

    def _processed(
        self, prompt: Prompt, images: Sequence[Image.Image], identities: list[str]
    ) -> MultiModalInput:
        expected = self._expected(prompt.mm_ids, images)
        rendered = self._vllm_processor(
            prompt.mm_ids.tolist(),
            mm_items=self._vllm_processor.info.parse_mm_data({"image": list(images)}),
            mm_uuid_items={"image": identities},
        )
        got = rendered["prompt_token_ids"]
        if not np.array_equal(as_ids(got), expected):
            raise InternalFault(
                f"vLLM expanded the prompt's {len(prompt.mm_ids)} tokens to {len(got)}, the model's processor to "
                f"{len(expected)}; they must be the same",
                ErrorDetail("mm_ids", str(len(got)), str(len(expected))),
            )
        return rendered

    def _expected(self, ids: Ids, images: Sequence[Image.Image]) -> Ids:
        assert self._placeholder is not None, (
            "validation refuses images for a model without a placeholder"
        )
        expanded = []
        for i, image in enumerate(images):
            try:
                expanded.append(self._expansion(image.size))
            except ValueError as error:
                raise InvalidItem(
                    f"media[{i}].image ({image.width} x {image.height}) is nothing for this model: {error}",
                    ErrorDetail(f"media[{i}].image", f"{image.width} x {image.height}"),
                ) from error
        return splice(ids, self._placeholder, expanded)[0]

    def _expand_size(self, size: tuple[int, int]) -> ExpandedImage:
        """How many tokens an image becomes depends on its size alone: a blank one tells."""
        expanded = expand_image(self._processor, Image.new("RGB", size))
        return ExpandedImage(expanded.ids, {}, {})


def with_response(prompt: VllmPrompt, context: str, response_ids: Ids, cache: Any) -> EngineInput:
    """The input of one request: a context, and all of the response but its last token.

    `cache` is vLLM's record of the images that the engine holds (None: it keeps none): those are not sent again.
    """
    shown = response_ids[:-1].tolist()
    rendered = prompt.grey if context == "text" else prompt.mm
    if rendered is None:
        return tokens_input(prompt.text_ids + shown)
    items = list(rendered["mm_kwargs"]["image"])
    hashes = rendered["mm_hashes"]
    if cache is not None:
        items = [
            cache.get_and_update_item((item, []), identity)[0]
            for item, identity in zip(items, hashes["image"], strict=True)
        ]
    return mm_input(
        prompt_token_ids=rendered["prompt_token_ids"] + shown,
        mm_kwargs=MultiModalKwargsItems({"image": items}),
        mm_hashes=hashes,
        mm_placeholders=rendered["mm_placeholders"],
    )
