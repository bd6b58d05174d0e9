"""Low-rank adapters on the student's linear layers, by peft: they are trained, the weights under them stay.

    W' = W + alpha / r B A        A [r, in] random, B [out, r] zeros at the start

Nothing wraps the model. peft puts a layer's own weights under `<layer>.base_layer` and the adapter beside them, at
`<layer>.lora_A` and `<layer>.lora_B`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from student_trainer.student_config import LoraConfig

FILE = "adapter.safetensors"
SEED = 0
"""Of A: the same on all ranks."""


def add_adapters(model: Any, config: LoraConfig) -> None:
    """Put adapters on the layers that `config` names, and leave nothing else to be trained.

    Raises ValueError without peft, or where a layer isn't linear or gives the logits, which are made of its weight.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ValueError("student.lora needs peft: install vgs-opd[lora]") from error
    targets = config.target_modules
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        adapters = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            target_modules=targets if isinstance(targets, str) else list(targets),
            lora_dropout=0.0,
        )
        peft.inject_adapter_in_model(adapters, model)
    for name, layer in model.named_modules():
        base = getattr(layer, "base_layer", None)
        if base is None:
            continue
        if not isinstance(base, torch.nn.Linear) or layer is model.get_output_embeddings():
            raise ValueError(
                f"student.lora.target_modules {targets!r} takes in {name}, which "
                + ("gives the logits" if isinstance(base, torch.nn.Linear) else "is not linear")
                + '; name others, or say "all-linear"'
            )


def merged(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """A state dict as it would be without adapters, on the CPU where one was added; `state` is left alone."""
    found: dict[str, Tensor] = {}
    for name, weight in state.items():
        if ".lora_" in name:
            continue
        layer, _, own = name.rpartition(".base_layer.")
        if layer and own == "weight":
            a, b = (state[f"{layer}.lora_{side}.default.weight"] for side in "AB")
            weight = (weight + config.alpha / config.rank * (b @ a)).cpu()
        found[f"{layer}.{own}" if layer else name] = weight
    return found


def save_adapters(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write those of a state dict into `folder`, to go on from."""
    own = {name: t.contiguous() for name, t in state.items() if ".lora_" in name}
    save_file(own, folder / FILE)


def load_adapters(model: Any, folder: Path) -> None:
    """Give adapters the values that `save_adapters` wrote."""
    own = load_file(folder / FILE)
    known = {name for name in model.state_dict() if ".lora_" in name}
    if own.keys() != known:
        raise ValueError(
            f"{folder / FILE} has adapters on other layers than student.lora.target_modules names; resume with the "
            "settings of its run"
        )
    model.load_state_dict(own, strict=False)
