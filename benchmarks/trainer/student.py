"""A random Qwen3-VL of a given shape with a word-level tokenizer, and questions about pictures for it."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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

from benchmarks.trainer.shape import MERGE, Lengths, Shape
from benchmarks.vllm.model import CHAT_TEMPLATE, FIRST_WORD, SPECIAL

PATCH = 16
TOKEN_SIDE = PATCH * MERGE
"""Pixels along each side of an image token."""


def make_student(folder: Path, shape: Shape, ends: int) -> int:
    """Write the model folder; returns its number of parameters.

    `ends` words end an answer. Random logits are nearly even: answers have geometric lengths of mean vocabulary / ends,
    before the longest are cut.
    """
    processor = _processor(shape.vocab_size)
    pad, end = (SPECIAL.index(token) for token in ("<|endoftext|>", "<|im_end|>"))
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(_config(shape, pad, end)).float()
    model.generation_config = GenerationConfig(
        eos_token_id=[end, *range(FIRST_WORD, FIRST_WORD + ends - 1)], pad_token_id=pad
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def write_rows(path: Path, rows: int, shape: Shape, lengths: Lengths) -> None:
    """A Parquet file of questions, each with a picture of its own; two tokens of a prompt mark the picture."""
    rng = np.random.default_rng(0)
    words = rng.integers(FIRST_WORD, shape.vocab_size, (rows, lengths.text - 2))
    table = {
        "question": [" ".join(f"w{i}" for i in row) for row in words],
        "answer": [""] * rows,
        "image": [_picture(rng, lengths.image) for _ in range(rows)],
    }
    pq.write_table(pa.table(table), path)


def _picture(rng: np.random.Generator, tokens: int) -> bytes:
    """A square of so many tokens, each of one colour."""
    side = math.isqrt(tokens)
    assert side**2 == tokens, "pictures are squares"
    colours = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    size = (side * TOKEN_SIDE, side * TOKEN_SIDE)
    picture = Image.fromarray(colours).resize(size, Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _processor(vocab_size: int) -> Qwen3VLProcessor:
    words = {token: i for i, token in enumerate(SPECIAL)}
    words |= {f"w{i}": i for i in range(FIRST_WORD, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL),
    )
    vision = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": TOKEN_SIDE**2, "longest_edge": 2**20},
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        tokenizer=fast,
        video_processor=Qwen3VLVideoProcessor(**vision),
        chat_template=CHAT_TEMPLATE,
    )


def _config(shape: Shape, pad: int, end: int) -> Qwen3VLConfig:
    eighth = shape.head_dim // 8
    text = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [2 * eighth, eighth, eighth],
            "mrope_interleaved": True,
        },
        "pad_token_id": pad,
        "eos_token_id": end,
        "bos_token_id": None,
        "tie_word_embeddings": True,
    }
    vision = {
        "hidden_size": shape.vision_hidden_size,
        "intermediate_size": shape.vision_intermediate_size,
        "depth": shape.depth,
        "num_heads": shape.vision_heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": shape.hidden_size,
        "num_position_embeddings": 1024,
        "deepstack_visual_indexes": list(shape.deepstack),
    }
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = dict(zip(names, (SPECIAL.index(f"<|{name}|>") for name in names), strict=True))
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )
