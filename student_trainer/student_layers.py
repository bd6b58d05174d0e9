"""How a model's layers run in training passes: computed again on the way back, compiled."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch._functorch import config as compiled_backward
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpointed_layers(model: Any) -> Sequence[torch.nn.Module]:
    """Prepare the layers, the vision encoder's too, to keep nothing but their inputs inside `checkpointing`.

    Raises ValueError for a model whose layers can't, or would drop out.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that transformers can compute again; set "
            "student.activation_checkpointing = false"
        )
    for layer in layers:
        for name, value in vars(layer).items():
            if "drop" in name and isinstance(value, float) and value > 0:
                raise ValueError(
                    f"{type(layer).__name__} has {name} = {value}, which student.activation_checkpointing would switch "
                    f"on; set {name} to 0 in the model's config.json"
                )
        layer.gradient_checkpointing = True
        # Nothing drops out, so there is no randomness to repeat; torch would set the whole process's generators back.
        vars(layer)["_gradient_checkpointing_func"] = partial(
            checkpoint, use_reentrant=False, preserve_rng_state=False
        )
    return layers


@contextlib.contextmanager
def checkpointing(layers: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Set `training` on the layers, where transformers looks; what drops out inside them stays in evaluation mode.

    For a pass alone: `generate` would lose its cache.
    """
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def uncompiled() -> contextlib.AbstractContextManager[object]:
    """Compiled layers run as they were written. `generate` calls them with a cache that is another at every step, and
    would have them compiled until torch gives up on them.
    """
    return torch.compiler.set_stance("force_eager")


def compile_layers(model: Any, device: torch.device, backend: str = "inductor") -> None:
    """Have the language model's layers compiled at their first call, for inputs of any length.

    Raises ValueError without a compiler: torch would fail in the first step.
    """
    command = os.environ.get("CXX", "g++") if device.type == "cpu" else os.environ.get("CC", "gcc")
    if shutil.which(command) is None:
        raise ValueError(
            f"student.compile needs a compiler and there is no {command!r} here; install one, or set "
            "student.compile = false"
        )
    # Parts of the objective whose gradients are kept apart go back through one graph.
    compiled_backward.donated_buffer = False
    for layer in model.get_decoder().modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.compile(dynamic=True, backend=backend)
