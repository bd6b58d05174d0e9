"""One context of a prompt, expanded and placed: what a forward pass is made of.

P expanded tokens, A position axes (3 for Qwen's multimodal RoPE, else 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from protos.arrays import Ids
from protos.expansion import ExpandedImage, splice


@dataclass(frozen=True, eq=False)
class Context:
    """Token ids with one or no image in the place of each placeholder."""

    ids: Tensor
    """i64 [P]"""
    token_types: dict[str, Tensor]
    """Per-token model inputs, i64 [P]; 0 stands for text."""
    positions: Tensor
    """i64 [A, P]"""
    tensors: dict[str, Tensor]
    """Image inputs such as `pixel_values`, concatenated over the context's images; empty without one."""

    @property
    def length(self) -> int:
        """P"""
        return len(self.ids)

    @property
    def next_position(self) -> int:
        """Where the first response token stands, on every axis."""
        return int(self.positions.max()) + 1

    @property
    def memory_bytes(self) -> int:
        """Of its tensors."""
        own = [self.ids, self.positions, *self.token_types.values(), *self.tensors.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in own)


def build_context(
    ids: Ids, placeholder: int | None, images: Sequence[ExpandedImage], base_model: Any
) -> Context:
    """Expand `ids` and place every token as the model itself would."""
    if images:
        assert placeholder is not None, (
            "validation refuses images for a model without a placeholder"
        )
        expanded, types = splice(ids, placeholder, images)
    else:
        expanded, types = ids, {}
    tensors = {
        name: torch.cat([image.tensors[name] for image in images])
        for name in (images[0].tensors if images else ())
    }
    tokens = torch.tensor(expanded, dtype=torch.long)
    token_types = {name: torch.tensor(values, dtype=torch.long) for name, values in types.items()}
    return Context(
        tokens, token_types, _positions(tokens, token_types, tensors, base_model), tensors
    )


def _positions(
    ids: Tensor, token_types: dict[str, Tensor], tensors: dict[str, Tensor], base_model: Any
) -> Tensor:
    if not hasattr(base_model, "get_rope_index"):
        return torch.arange(len(ids))[None]
    kinds = token_types.get("mm_token_type_ids", torch.zeros_like(ids))
    grids = {name: grid for name, grid in tensors.items() if name.endswith("grid_thw")}
    positions, _ = base_model.get_rope_index(ids[None], mm_token_type_ids=kinds[None], **grids)
    return positions[:, 0]
