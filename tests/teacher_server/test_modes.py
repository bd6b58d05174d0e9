"""Parts of the scores, masks and the grey text context: the same numbers as by the plainest means."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protos.client import TeacherClient
from protos.item import Candidates, ScoreItem
from protos.prompt import Prompt
from protos.scores import PER_ENTRY, PER_ROW, Scores
from tests.loopback import serving
from tests.pictures import encode
from tests.reference import Reference

QUESTION = "what stands in the picture?"
RESPONSE = np.random.default_rng(3).integers(10, 300, 12).astype(np.int32)
MASK = np.array([0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0], dtype=np.bool_)


@pytest.fixture(scope="module")
def server(qwen: Path) -> Iterator[str]:
    """Deterministic: parts must have the bits of the whole."""
    with serving(qwen, engine={"deterministic": True, "chunk_rows": 5}) as address:
        yield address


@pytest.fixture(scope="module")
def prompt(qwen_reference: Reference, photographs: tuple[bytes, bytes]) -> Prompt:
    return qwen_reference.prompt(QUESTION, photographs)


async def score(address: str, prompt: Prompt, *items: ScoreItem) -> list[Scores]:
    async with TeacherClient(address) as teacher:
        put = await teacher.put_prompt(prompt)
        return [await teacher.score(put, item) for item in items]


async def test_parts_have_the_bits_of_the_whole(server: str, prompt: Prompt):
    whole, vds, sampled = await score(
        server,
        prompt,
        ScoreItem(RESPONSE, k=5),
        ScoreItem(RESPONSE, mode="vds_only"),
        ScoreItem(RESPONSE, mode="sampled_only"),
    )
    assert vds.vds.tobytes() == whole.vds.tobytes()
    assert np.isnan(sampled.vds).all(), "what was not asked for is not zero"
    for part in (vds, sampled):
        assert not len(part.support_ids)
        assert not part.tail_mask.any()
        for name in ("sampled_mm_logprobs", "sampled_text_logprobs", "response_ids"):
            assert getattr(part, name).tobytes() == getattr(whole, name).tobytes()


@pytest.mark.parametrize("mode", ["topk", "vds_only"])
async def test_masked_tokens_are_read_and_not_scored(server: str, prompt: Prompt, mode):
    candidates = Candidates.from_rows([[20 + t] * (t % 3) for t in range(len(RESPONSE))])
    item = ScoreItem(RESPONSE, k=5, candidates=candidates)
    if mode != "topk":
        item = ScoreItem(RESPONSE, mode=mode)
    whole, part = await score(server, prompt, item, replace(item, response_mask=MASK))
    kept = Scores.join([whole.slice_rows(t, t + 1) for t in np.flatnonzero(MASK)])
    # Other rows at a time move the head's last bits, and nothing else.
    for name in (*PER_ROW, *PER_ENTRY, "row_splits"):
        got, expected = getattr(part, name), getattr(kept, name)
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, atol=1e-5)
        else:
            assert got.tolist() == expected.tolist()


async def test_a_prompt_without_an_image_has_one_context(server: str, qwen_reference: Reference):
    (scores,) = await score(
        server, qwen_reference.prompt(QUESTION), ScoreItem(RESPONSE, mode="vds_only")
    )
    assert scores.vds.tolist() == [0.0] * len(RESPONSE)
    assert scores.sampled_mm_logprobs.tobytes() == scores.sampled_text_logprobs.tobytes()


async def test_the_grey_context_is_that_of_grey_pictures(
    server: str, qwen_reference: Reference, photographs: tuple[bytes, bytes]
):
    with_image = qwen_reference.prompt(QUESTION, photographs)
    prompt = replace(with_image, text_ids=with_image.mm_ids, text_context="grey")
    (scores,) = await score(server, prompt, ScoreItem(RESPONSE, k=5))
    # Their sizes, and nothing else of them.
    blank = tuple(
        encode(np.full((1, 1, 3), 128, np.uint8), "PNG", Image.open(io.BytesIO(data)).size)
        for data in photographs
    )
    mm = qwen_reference.logprobs(QUESTION, photographs, RESPONSE)
    text = qwen_reference.logprobs(QUESTION, blank, RESPONSE)
    vds = (mm.exp() * (mm - text)).sum(-1).clamp_min(0)
    np.testing.assert_allclose(scores.vds, vds, atol=1e-5)
    rows = np.arange(len(RESPONSE))
    np.testing.assert_allclose(scores.sampled_mm_logprobs, mm[rows, RESPONSE], atol=1e-5)
    np.testing.assert_allclose(scores.sampled_text_logprobs, text[rows, RESPONSE], atol=1e-5)
    (dropped,) = await score(server, with_image, ScoreItem(RESPONSE, k=5))
    assert np.abs(dropped.vds - scores.vds).max() > 1e-3, "it is another context"
