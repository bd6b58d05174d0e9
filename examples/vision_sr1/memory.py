"""GPU memory that the recipes should need, by arithmetic: `python -m examples.vision_sr1.memory` prints the table.

Nothing here was measured on these models. Counts of parameters are exact. Activations are what autograd keeps of a
layer under bfloat16 autocast, counted on a CPU; a GPU's kernels may differ. Left out: the allocator's gaps, the CUDA
context (about 0.5 GB) and pixels.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from student_trainer.config import TrainConfig

VOCABULARY, HEAD_WIDTH, KEY_HEADS = 151_936, 128, 8
PATCH_VALUES, POSITIONS, PATCHES_PER_TOKEN, DEEPSTACK = 3 * 2 * 16 * 16, 2_304, 4, 3
F32, BF16 = 4, 2
GROWING = 64
"""Responses that a rollout server grows at a time, its `engine.max_running`."""


@dataclass(frozen=True)
class Model:
    """Sizes of a Qwen3-VL, as its config.json has them."""

    layers: int
    width: int
    inner: int
    heads: int
    tied: bool
    """Whether the output projection is the embedding."""
    vision_layers: int = 24
    vision_width: int = 1_024
    vision_inner: int = 4_096

    @property
    def queries(self) -> int:
        """Width of all queries together."""
        return self.heads * HEAD_WIDTH

    @property
    def keys(self) -> int:
        """Width of all keys together, and of all values."""
        return KEY_HEADS * HEAD_WIDTH

    @property
    def layer_parameters(self) -> int:
        """Of one layer of the language model."""
        attention = 2 * self.width * (self.queries + self.keys) + 2 * HEAD_WIDTH
        return attention + 3 * self.width * self.inner + 2 * self.width

    @property
    def embedding_parameters(self) -> int:
        """Embedding and, where it is not the same, output projection."""
        return VOCABULARY * self.width * (1 if self.tied else 2)

    @property
    def vision_layer_parameters(self) -> int:
        """Of one layer of the vision encoder."""
        v, f = self.vision_width, self.vision_inner
        return 4 * v * v + 4 * v + 2 * v * f + f + v + 4 * v

    @property
    def vision_parameters(self) -> int:
        """Of the vision encoder."""
        v = self.vision_width
        merged = PATCHES_PER_TOKEN * v
        merger = merged * merged + merged + merged * self.width + self.width
        norms = 2 * v + DEEPSTACK * 2 * merged
        embedding = PATCH_VALUES * v + v + POSITIONS * v
        layers = self.vision_layers * self.vision_layer_parameters
        return embedding + layers + (1 + DEEPSTACK) * merger + norms

    @property
    def parameters(self) -> int:
        """All."""
        language = self.layers * self.layer_parameters + self.embedding_parameters + self.width
        return language + self.vision_parameters

    @property
    def rest_parameters(self) -> int:
        """All that is in no layer: embedding, output projection, what puts patches together."""
        layers = self.layers * self.layer_parameters
        return self.parameters - layers - self.vision_layers * self.vision_layer_parameters


MODELS = {
    "Qwen/Qwen3-VL-2B-Instruct": Model(28, 2_048, 6_144, 16, tied=True),
    "Qwen/Qwen3-VL-4B-Instruct": Model(36, 2_560, 9_728, 32, tied=True),
    "Qwen/Qwen3-VL-8B-Instruct": Model(36, 4_096, 12_288, 32, False, 27, 1_152, 4_304),
}


@dataclass(frozen=True)
class Lengths:
    """Tokens of a prompt and of its response."""

    image: int
    question: int
    response: int


USUAL = Lengths(image=1_024, question=256, response=2_048)
"""A picture of a megapixel, and the longest response."""
LONGEST = Lengths(image=15_360, question=1_024, response=2_048)
"""The longest prompt of the students' recipes, nearly all of it pictures."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU."""

    weights: float
    """float32, this GPU's part."""
    gradients: float
    moments: float
    """Both of AdamW."""
    copy: float
    """bfloat16 weights: autocast keeps its casts until the forward pass ends. Sharded layers need none."""
    gathered: float
    """Sharded weights put together, and their gradients before they are shared out: two layers at a time, of bfloat16
    weights, and the rest throughout, in float32."""
    head: float
    """A chunk of logits and of their gradient, and the output projection's gradient."""
    activations: float

    @property
    def total(self) -> float:
        """Bytes together."""
        return sum(vars(self).values())


def training_memory(
    config: TrainConfig, gpus: int, lengths: Lengths = USUAL, microbatch: int | None = None
) -> Memory:
    """What a recipe's trainer needs on each of `gpus` that share weights, gradients and moments evenly (FSDP2)."""
    model = MODELS[config.model]
    part = F32 * model.parameters / gpus
    together = 2 * F32 * model.rest_parameters + 2 * (BF16 + F32) * model.layer_parameters
    projection = VOCABULARY * model.width
    return Memory(
        weights=part,
        gradients=part,
        moments=2 * part,
        copy=BF16 * model.parameters if gpus == 1 else 0,
        gathered=together if gpus > 1 else 0,
        head=F32 * (2 * config.batch.chunk_rows * VOCABULARY + projection),
        activations=(microbatch or config.batch.microbatch) * activations(config, lengths),
    )


def activations(config: TrainConfig, lengths: Lengths) -> float:
    """Bytes that autograd keeps of one response's forward passes."""
    model = MODELS[config.model]
    question = lengths.question + lengths.response
    tokens = lengths.image + question
    if config.student.packing and config.objective.name not in ("standard", "grpo"):
        tokens += question  # both contexts in one pass; else the text-only one is through before
    patches = PATCHES_PER_TOKEN * lengths.image
    token, patch = layer_activations(model), vision_layer_activations(model)
    if not config.student.activation_checkpointing:
        return tokens * model.layers * token + patches * model.vision_layers * patch
    inputs = tokens * model.layers * F32 * model.width
    vision_inputs = patches * model.vision_layers * BF16 * model.vision_width
    return inputs + vision_inputs + max(tokens * token, patches * patch)


def layer_activations(model: Model) -> int:
    """Bytes that a layer of the language model keeps of a token.

    Twice, each, in float32 the residual stream and its norm, and their casts for five projections; queries, keys and
    values before and after their norms; the gated inner layer four times.
    """
    attention = 10 * (model.queries + model.keys)
    return 26 * model.width + attention + 8 * model.inner + 12 * model.heads + 4 * KEY_HEADS + 8


def vision_layer_activations(model: Model) -> int:
    """Bytes that a layer of the vision encoder keeps of a patch."""
    return 22 * model.vision_width + 4 * model.vision_inner + 4 * 4 + 4 * 16


def rollout_memory(config: TrainConfig, lengths: Lengths = USUAL) -> float:
    """Bytes of a rollout server on one GPU: bfloat16 weights, keys and values of all responses that grow."""
    model = MODELS[config.model]
    tokens = GROWING * (lengths.image + lengths.question + lengths.response)
    return BF16 * model.parameters + tokens * model.layers * 2 * BF16 * model.keys


def table() -> str:
    """Markdown, in GB of 10^9 bytes."""
    names = ("weights", "gradients", "moments", "copy", "gathered", "head", "activations")
    rows = [
        ["recipe", "GPUs", *names, "**sum**", "one longest response", "rollout server"],
        ["---"] * (len(names) + 5),
    ]
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        config = TrainConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        for gpus in (1, 8):
            memory = training_memory(config, gpus)
            longest = training_memory(config, gpus, LONGEST, microbatch=1)
            sizes = [getattr(memory, name) for name in names]
            cells = [f"{size / 1e9:.1f}" for size in sizes]
            cells += [f"**{memory.total / 1e9:.0f}**", f"{longest.total / 1e9:.0f}"]
            rows.append([path.stem, str(gpus), *cells, f"{rollout_memory(config) / 1e9:.0f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
