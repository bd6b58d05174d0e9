"""The processor of the toy: word-level tokenizer, chat template, image and video processors."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from examples.digits.pictures import DIGIT_PIXELS
from examples.digits.questions import vocabulary

PAD, UNKNOWN, START, END = "<|endoftext|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (
    PAD,
    UNKNOWN,
    START,
    END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
MAX_TOKENS = 2048  # of prompt and response together
MAX_IMAGE_TOKENS = 64
VISION = {
    "patch_size": 8,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    # In pixels. The smallest picture is one digit, so that the two digits of the task stay 16 x 32.
    "size": {
        "shortest_edge": DIGIT_PIXELS**2,
        "longest_edge": MAX_IMAGE_TOKENS * DIGIT_PIXELS**2,
    },
}


def make_tokenizer(fillers: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per lower-case word, number or punctuation mark.

    Fillers come last: all other ids are the same without them.
    """
    words = [*SPECIAL_TOKENS, *vocabulary(), *fillers]
    ids = {word: id for id, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[?.,!:]"), "isolated")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=list(SPECIAL_TOKENS),
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
    )


def make_processor(fillers: Sequence[str] = ()) -> Qwen3VLProcessor:
    """Return the processor that the teacher and the student of a task share."""
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**VISION),
        tokenizer=make_tokenizer(fillers),
        video_processor=Qwen3VLVideoProcessor(**VISION),
        chat_template=Path(__file__).with_name("chat_template.jinja").read_text(),
    )
