"""The two sizes of the toy: a teacher in the place of Qwen3-VL-8B, a student in that of -2B."""

from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers import PreTrainedTokenizerFast as Tokenizer

from examples.digits.processor import MAX_TOKENS, VISION

SIZES = {
    "teacher": {
        "text": {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "head_dim": 32,
            # Interleaved over head_dim / 2 = 16 frequencies; time, the first, must be the largest.
            "mrope_section": [6, 5, 5],
        },
        "vision": {"hidden_size": 96, "intermediate_size": 192, "depth": 3},
        "tie_word_embeddings": False,  # as the 8B
    },
    "student": {
        "text": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "head_dim": 16,
            "mrope_section": [4, 2, 2],
        },
        "vision": {"hidden_size": 48, "intermediate_size": 96, "depth": 2},
        "tie_word_embeddings": True,  # as the 2B
    },
}


def make_config(name: str, tokenizer: Tokenizer) -> Qwen3VLConfig:
    """Return the configuration of "teacher" or "student"."""
    size = SIZES[name]
    text = dict(size["text"])
    id_of = tokenizer.convert_tokens_to_ids
    rope = {
        "rope_type": "default",
        "rope_theta": 10_000.0,
        "mrope_section": text.pop("mrope_section"),
        "mrope_interleaved": True,
    }
    return Qwen3VLConfig(
        text_config={
            **text,
            "vocab_size": len(tokenizer),
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": MAX_TOKENS,
            "rope_parameters": rope,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": size["tie_word_embeddings"],
        },
        vision_config={
            **size["vision"],
            "num_heads": 4,
            "patch_size": VISION["patch_size"],
            "spatial_merge_size": VISION["merge_size"],
            "temporal_patch_size": VISION["temporal_patch_size"],
            "out_hidden_size": text["hidden_size"],
            "num_position_embeddings": 64,  # a grid of 8 x 8, interpolated to each picture's own
            "deepstack_visual_indexes": [0],
        },
        image_token_id=id_of("<|image_pad|>"),
        video_token_id=id_of("<|video_pad|>"),
        vision_start_token_id=id_of("<|vision_start|>"),
        vision_end_token_id=id_of("<|vision_end|>"),
        tie_word_embeddings=size["tie_word_embeddings"],
        dtype="float32",
    )


def make_model(name: str, tokenizer: Tokenizer) -> Qwen3VLForConditionalGeneration:
    """Return "teacher" or "student" with fresh float32 weights (seed torch before)."""
    model = Qwen3VLForConditionalGeneration(make_config(name, tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model
