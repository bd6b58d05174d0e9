"""What a Qwen3-VL computes, counted: to give a small one the proportions of a large one.

Counted are products of matrices, two operations for a multiplication and an addition, and attention over full squares.
"""

from __future__ import annotations

from dataclasses import dataclass

MERGE = 2
"""Patches along each side of an image token."""
PRESERVED = 0.3
"""Share of the tokens that preservation looks at."""
BACKWARD = 2
"""Of the forward pass's operations."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of a response and its prompt."""

    image: int
    text: int
    response: int

    @property
    def mm(self) -> int:
        """With the picture."""
        return self.image + self.text + self.response

    @property
    def text_only(self) -> int:
        """Without."""
        return self.text + self.response


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, named as its configuration names them."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    vision_hidden_size: int
    vision_intermediate_size: int
    depth: int
    vision_heads: int
    deepstack: tuple[int, ...]
    """Layers of the vision tower whose states go into the language model as well."""

    def text(self, tokens: int) -> float:
        """Operations of a forward pass through the language model's layers."""
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        weights = self.hidden_size * (2 * queries + 2 * keys + 3 * self.intermediate_size)
        return self.num_hidden_layers * (2 * tokens * weights + 4 * tokens**2 * queries)

    def vision(self, image_tokens: int) -> float:
        """Of the vision tower, with what brings its patches together."""
        width, patches = self.vision_hidden_size, image_tokens * MERGE**2
        weights = width * (4 * width + 2 * self.vision_intermediate_size)
        layers = self.depth * (2 * patches * weights + 4 * patches**2 * width)
        merged = MERGE**2 * width
        merger = 2 * image_tokens * merged * (merged + self.hidden_size)
        return layers + (1 + len(self.deepstack)) * merger

    def head(self, rows: int) -> float:
        """Of the projection onto the vocabulary."""
        return 2.0 * rows * self.hidden_size * self.vocab_size

    def mm_pass(self, lengths: Lengths) -> float:
        """A forward pass with the picture."""
        own = self.text(lengths.mm) + self.head(lengths.response)
        return own + self.vision(lengths.image)

    def text_pass(self, lengths: Lengths) -> float:
        """A forward pass without."""
        return self.text(lengths.text_only) + self.head(lengths.response)

    def vision_share(self, lengths: Lengths) -> float:
        """Of the pass with the picture."""
        return self.vision(lengths.image) / self.mm_pass(lengths)

    def head_share(self, lengths: Lengths) -> float:
        """Of the pass with the picture."""
        return self.head(lengths.response) / self.mm_pass(lengths)

    def contexts_ratio(self, lengths: Lengths) -> float:
        """What scoring in both contexts takes, over scoring with the picture alone."""
        return 1 + self.text_pass(lengths) / self.mm_pass(lengths)

    def update_ratio(self, lengths: Lengths) -> float:
        """An update by vgs-lp over one by standard: the head alone has a gradient for a part of the tokens only."""
        layers = (1 + BACKWARD) * self.text(lengths.text_only)
        head = (1 + BACKWARD * PRESERVED) * self.head(lengths.response)
        return 1 + (layers + head) / ((1 + BACKWARD) * self.mm_pass(lengths))


QWEN3_VL_2B = Shape(
    hidden_size=2048,
    intermediate_size=6144,
    num_hidden_layers=28,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    vision_hidden_size=1024,
    vision_intermediate_size=4096,
    depth=24,
    vision_heads=16,
    deepstack=(5, 11, 17),
)
QWEN3_VL_8B = Shape(
    hidden_size=4096,
    intermediate_size=12_288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151_936,
    vision_hidden_size=1152,
    vision_intermediate_size=4304,
    depth=27,
    vision_heads=16,
    deepstack=(8, 16, 24),
)
SMALL = Shape(
    hidden_size=384,
    intermediate_size=1152,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=3,
    head_dim=64,
    vocab_size=2432,
    vision_hidden_size=128,
    vision_intermediate_size=512,
    depth=2,
    vision_heads=4,
    deepstack=(0,),
)
"""The one that is measured: a step takes a second or two on one CPU thread."""
