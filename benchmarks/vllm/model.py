"""The benchmark model: a random Qwen3-VL of about 20 million parameters and 32,000 words, from configuration."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

VOCABULARY = 32_000
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
FIRST_WORD = len(SPECIAL)
PATCH, MERGE = 8, 2
IMAGE_IDS = tuple(map(SPECIAL.index, ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")))
"""An image in a prompt, before expansion."""
VISION = {
    "patch_size": PATCH,
    "merge_size": MERGE,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 32 * 32, "longest_edge": 512 * 512},
}
CHAT_TEMPLATE = """{%- for message in messages -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}
{%- endfor -%}"""


def make_model(folder: Path) -> int:
    """Write the model folder; returns its number of parameters."""
    processor = _processor()
    tokenizer = processor.tokenizer
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(_config(tokenizer)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.dim() > 1
            ):  # answers that depend on what is shown, over a peaked vocabulary
                parameter.normal_(0.0, 0.05)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def random_ids(rng: np.random.Generator, count: int) -> list[int]:
    """Words, no special token."""
    return rng.integers(FIRST_WORD, VOCABULARY, count).tolist()


def random_image(rng: np.random.Generator, tokens: int) -> Image.Image:
    """A square of noise, 16 pixels wide blocks, that becomes so many tokens."""
    blocks = math.isqrt(tokens)
    assert blocks**2 == tokens, "images are squares"
    pixels = rng.integers(0, 256, (blocks, blocks, 3), dtype=np.uint8)
    side = blocks * PATCH * MERGE
    return Image.fromarray(pixels).resize((side, side))


def _processor() -> Qwen3VLProcessor:
    words = {token: i for i, token in enumerate(SPECIAL)}
    words |= {f"w{i}": i for i in range(FIRST_WORD, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL),
    )
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**VISION),
        tokenizer=fast,
        video_processor=Qwen3VLVideoProcessor(**VISION),
        chat_template=CHAT_TEMPLATE,
    )


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    id_of = SPECIAL.index
    return Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 256,
            "intermediate_size": 640,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [16, 8, 8],
                "mrope_interleaved": True,
            },
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "depth": 2,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 256,
            "num_position_embeddings": 1024,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=id_of("<|image_pad|>"),
        video_token_id=id_of("<|video_pad|>"),
        vision_start_token_id=id_of("<|vision_start|>"),
        vision_end_token_id=id_of("<|vision_end|>"),
        tie_word_embeddings=False,
    )
