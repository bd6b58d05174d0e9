"""How one placeholder becomes an image's tokens. Both sides must agree on it, so it stands with the contract.

Prompts cross the wire with one placeholder per image. Each side expands with its own processor: the processor is
asked for the tokens of a lone placeholder with that image, and they take the placeholder's place. The rest of the
ids is never tokenised again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from protos.arrays import Ids


class Processor(Protocol):
    """The part of a Hugging Face processor that expansion needs."""

    tokenizer: Any

    def __call__(self, *, text: list[str], images: list[Any], **kwargs: Any) -> Mapping[str, Any]:
        """Tokens and model inputs of one text with its images."""
        ...


@dataclass(frozen=True, eq=False)
class ExpandedImage:
    """What a model's processor makes of one image."""

    ids: Ids
    """i32 [n], the tokens that replace the placeholder."""
    token_types: dict[str, Ids]
    """Per-token inputs such as `mm_token_type_ids`, i32 [n]; 0 for every token that is not an image's."""
    tensors: dict[str, Any]
    """Model inputs such as `pixel_values` and `image_grid_thw`, as the processor returned them."""


def placeholder_token(processor: Processor) -> str:
    """The token that stands for one image in a rendered prompt: Gemma writes `boi_token`, others `image_token`."""
    for name in ("boi_token", "image_token"):
        token = getattr(processor, name, None) or getattr(processor.tokenizer, name, None)
        if token:
            return str(token)
    raise ValueError(
        f"{type(processor).__name__} names no image token: image_token or boi_token is needed"
    )


def expand_image(processor: Processor, image: Any) -> ExpandedImage:
    """Run the model's own processor on one image (RGB) and a lone placeholder."""
    inputs = dict(
        processor(
            text=[placeholder_token(processor)],
            images=[image],
            add_special_tokens=False,
            return_tensors="pt",
        )
    )
    ids = np.asarray(inputs.pop("input_ids"))[0].astype(np.int32)
    inputs.pop("attention_mask", None)
    type_names = [name for name in inputs if name.endswith("token_type_ids")]
    token_types = {name: np.asarray(inputs.pop(name))[0].astype(np.int32) for name in type_names}
    return ExpandedImage(ids=ids, token_types=token_types, tensors=inputs)


def splice(
    ids: Ids, placeholder: int, images: Sequence[ExpandedImage]
) -> tuple[Ids, dict[str, Ids]]:
    """Replace each placeholder in `ids` by its image's tokens.

    Returns the expanded ids [P'] and, under each name in the images' `token_types`, the per-token inputs [P'].
    Raises ValueError where placeholders and images differ in number.
    """
    positions = np.flatnonzero(ids == placeholder)
    if len(positions) != len(images):
        raise ValueError(f"{len(positions)} placeholders for {len(images)} images")
    names = sorted({name for image in images for name in image.token_types})
    id_parts: list[Ids] = []
    type_parts: dict[str, list[Ids]] = {name: [] for name in names}
    start = 0
    for position, image in zip([*positions, len(ids)], [*images, None], strict=True):
        between = ids[start:position]
        id_parts.append(between)
        for name in names:
            type_parts[name].append(np.zeros(len(between), dtype=np.int32))
        if image is not None:
            id_parts.append(image.ids)
            for name in names:
                missing = np.zeros(len(image.ids), dtype=np.int32)
                type_parts[name].append(image.token_types.get(name, missing))
        start = position + 1
    return (
        np.concatenate(id_parts),
        {name: np.concatenate(parts) for name, parts in type_parts.items()},
    )
