"""A response's ids are scored verbatim, row for row, whatever a tokenizer would make of their text."""

import numpy as np
import pytest

from protos.arrays import as_ids
from protos.client import TeacherClient
from protos.errors import InvalidItem
from protos.item import ScoreItem
from tests.pictures import noise

QUESTION = "what stands in the picture?"
PICTURE = (noise(1),)


@pytest.fixture
async def teacher(qwen_server, qwen_reference):
    async with TeacherClient(
        qwen_server, tokenizer_fingerprint=qwen_reference.fingerprint
    ) as client:
        yield client


async def score(teacher, reference, response, images=PICTURE):
    put = await teacher.put_prompt(reference.prompt(QUESTION, images))
    return await teacher.score(put, ScoreItem(response, k=4))


async def test_ids_that_a_tokenizer_would_merge(teacher, qwen_reference):
    tokenizer = qwen_reference.processor.tokenizer
    whole = qwen_reference.ids("the picture")
    letters = as_ids(tokenizer.convert_tokens_to_ids([*"the", "Ġ", *"picture"]))
    assert len(letters) > len(whole)
    assert tokenizer.decode(letters) == tokenizer.decode(whole) == "the picture"
    scores = await score(teacher, qwen_reference, letters)
    assert scores.rows == len(letters)
    qwen_reference.check(scores, QUESTION, PICTURE, letters)


async def test_the_end_of_sequence_is_a_token_like_any_other(teacher, qwen_reference):
    response = qwen_reference.ids("a red flower<|im_end|>")
    scores = await score(teacher, qwen_reference, response)
    assert scores.response_ids[-1] == qwen_reference.processor.tokenizer.eos_token_id
    qwen_reference.check(scores, QUESTION, PICTURE, response)


async def test_an_image_placeholder_inside_the_response_is_refused(teacher, qwen_reference):
    response = qwen_reference.ids("a <|image_pad|> flower")
    with pytest.raises(InvalidItem, match=r"response_ids\[\d\].*stands for an image"):
        await score(teacher, qwen_reference, response)


async def test_several_images_of_different_sizes(teacher, qwen_reference):
    images = (noise(2, (32, 32)), noise(3, (128, 40), "JPEG"), noise(4, (50, 90), "WEBP"))
    response = qwen_reference.ids("first, second, third")
    scores = await score(teacher, qwen_reference, response, images)
    qwen_reference.check(scores, QUESTION, images, response)
    swapped = await score(teacher, qwen_reference, response, images[::-1])
    qwen_reference.check(swapped, QUESTION, images[::-1], response)
    assert np.abs(scores.sampled_mm_logprobs - swapped.sampled_mm_logprobs).max() > 1e-3


async def test_no_image(teacher, qwen_reference):
    response = qwen_reference.ids("left and right")
    scores = await score(teacher, qwen_reference, response, ())
    qwen_reference.check(scores, QUESTION, (), response)


async def test_lengths_are_told_after_expansion(teacher, qwen_reference):
    # 64 x 32 pixels at 16 pixels a token: 4 x 2 image tokens in the place of one placeholder.
    prompt = qwen_reference.prompt(QUESTION, (noise(5, (64, 32)),))
    put = await teacher.put_prompt(prompt)
    assert put.mm_length == len(prompt.mm_ids) - 1 + 8
    assert put.text_length == len(prompt.text_ids)
