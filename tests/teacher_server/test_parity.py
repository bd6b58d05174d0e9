"""Scores that crossed the wire equal a plain full-vocabulary float32 computation."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from protos.client import TeacherClient
from protos.item import Candidates, ScoreItem
from protos.scores import Scores
from tests.conftest import TOY
from tests.loopback import serving
from tests.pictures import noise
from tests.reference import Reference

QUESTION = "what stands in the picture?"
ENGINES = {
    "shared prefix": {},
    "whole sequences": {"share_prefix": False},
    "deterministic": {"deterministic": True},
    "small batches and chunks": {"max_batch_tokens": 90, "chunk_rows": 3},
}


@pytest.fixture(scope="module", params=ENGINES, ids=lambda name: name.replace(" ", "-"))
def server(request: pytest.FixtureRequest, qwen: Path) -> Iterator[str]:
    with serving(qwen, engine=ENGINES[request.param]) as address:
        yield address


def random_response(seed: int, length: int, vocabulary: int = 300) -> np.ndarray:
    # From 10 on: no special token.
    return np.random.default_rng(seed).integers(10, vocabulary, length).astype(np.int32)


async def score_all(
    address: str,
    reference: Reference,
    cases: list[tuple[str, tuple[bytes, ...], np.ndarray]],
    **item,
) -> list[Scores]:
    """All cases at once, so that they meet in batches."""
    import asyncio

    async with TeacherClient(address, tokenizer_fingerprint=reference.fingerprint) as teacher:
        puts = {}
        for question, images, _ in cases:
            if (question, images) not in puts:
                puts[question, images] = await teacher.put_prompt(
                    reference.prompt(question, images)
                )
        return await asyncio.gather(
            *(
                teacher.score(puts[question, images], ScoreItem(response, **item))
                for question, images, response in cases
            )
        )


async def test_every_number_on_mixed_prompts(server, qwen_reference, photographs):
    temple, flower = photographs
    cases = [
        (QUESTION, (temple,), random_response(1, 12)),
        (QUESTION, (temple,), random_response(2, 1)),
        (QUESTION, (temple,), random_response(3, 30)),
        ("left and right?", (temple, flower), random_response(4, 7)),
        ("left and right?", (flower, temple), random_response(4, 7)),
        ("describe the sky", (), random_response(5, 9)),
        (QUESTION, (noise(1, (33, 70), "WEBP"),), random_response(6, 15)),
    ]
    answers = await score_all(server, qwen_reference, cases, k=5)
    for scores, case in zip(answers, cases, strict=True):
        qwen_reference.check(scores, *case)
    # The order of the images matters, so the two-image answers are not the same by accident.
    assert np.abs(answers[3].mm_logprobs[:5] - answers[4].mm_logprobs[:5]).max() > 1e-3
    assert all(scores.vds.max() > 1e-3 for scores in answers[:5])


async def test_f16_halves_the_digits_only(qwen_server, qwen_reference, photographs):
    case = (QUESTION, photographs, random_response(7, 20))
    (scores,) = await score_all(qwen_server, qwen_reference, [case], k=8, dtype="f16")
    qwen_reference.check(scores, *case, relative=1 / 2048)


async def test_whole_vocabulary_has_no_tail(qwen, qwen_reference, photographs):
    vocabulary = qwen_reference.model.get_output_embeddings().weight.shape[0]
    case = (QUESTION, photographs[:1], random_response(8, 6))
    with serving(qwen) as address:
        (scores,) = await score_all(address, qwen_reference, [case], k=vocabulary)
    assert not scores.tail_mask.any()
    assert len(scores.support_ids) == 6 * vocabulary
    qwen_reference.check(scores, *case)


async def test_support_is_the_union(qwen_server, qwen_reference, photographs):
    response = random_response(9, 4)
    rows = [[11, 12], [], [13], [14, 15, 16]]
    case = (QUESTION, photographs[:1], response)
    (scores,) = await score_all(
        qwen_server, qwen_reference, [case], k=3, candidates=Candidates.from_rows(rows)
    )
    qwen_reference.check(scores, *case)
    mm = qwen_reference.logprobs(*case)
    text = qwen_reference.logprobs(QUESTION, (), response)
    for t, row in enumerate(rows):
        expected = {*row, int(response[t])}
        expected |= set(mm[t].topk(3).indices.tolist()) | set(text[t].topk(3).indices.tolist())
        got = scores.support_ids[scores.row_splits[t] : scores.row_splits[t + 1]]
        assert got.tolist() == sorted(expected)


async def test_ids_outside_the_students_vocabulary_stay_in_the_tail(
    qwen_server, qwen_reference, photographs
):
    case = (QUESTION, photographs[:1], random_response(10, 5, vocabulary=200))
    (scores,) = await score_all(qwen_server, qwen_reference, [case], k=250, vocab_size=200)
    assert scores.support_ids.max() == 199
    assert scores.tail_mask.all()
    qwen_reference.check(scores, *case)


async def test_without_an_image_the_contexts_are_one(qwen_server, qwen_reference):
    case = ("describe the sky", (), random_response(11, 8))
    (scores,) = await score_all(qwen_server, qwen_reference, [case], k=4)
    assert scores.vds.tolist() == [0.0] * 8
    np.testing.assert_array_equal(scores.mm_logprobs, scores.text_logprobs)


async def test_long_answers_come_in_chunks(qwen, qwen_reference, photographs):
    case = (QUESTION, photographs[:1], random_response(12, 50))
    with serving(qwen, limits={"max_chunk_rows": 7}) as address:
        (scores,) = await score_all(address, qwen_reference, [case], k=4)
    qwen_reference.check(scores, *case)


async def test_deterministic_engine_ignores_company(qwen, qwen_reference, photographs):
    cases = [(QUESTION, photographs[:1], random_response(s, 5 + s)) for s in range(8)]
    with serving(qwen, engine={"deterministic": True}) as address:
        together = await score_all(address, qwen_reference, cases, k=4)
        alone = [(await score_all(address, qwen_reference, [case], k=4))[0] for case in cases]
    assert all(a.equal_to(b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("sharing", [True, False])
async def test_another_family(sharing, llava, photographs):
    reference = Reference.load(llava)
    cases = [
        (QUESTION, photographs[:1], random_response(13, 9)),
        (QUESTION, photographs[:1], random_response(14, 4)),
        ("left and right?", photographs, random_response(15, 6)),
        ("describe the sky", (), random_response(16, 5)),
    ]
    with serving(llava, engine={"share_prefix": sharing}) as address:
        answers = await score_all(address, reference, cases, k=5)
    for scores, case in zip(answers, cases, strict=True):
        reference.check(scores, *case)


async def test_the_toys_teacher_on_its_own_questions():
    """Trained, as the models above are not: sure of most tokens, and of the digits by sight alone."""
    reference = Reference.load(TOY / "teacher")
    rows = pq.read_table("examples/digits/data/heldout.parquet").slice(0, 3).to_pylist()
    texts = [f"<reason> left 4 right 7 </reason> \\boxed{{ {row['answer']} }}" for row in rows]
    cases = [
        (row["question"], (row["image"]["bytes"],), reference.ids(text))
        for row, text in zip(rows, texts, strict=True)
    ]
    with serving(TOY / "teacher") as address:
        answers = await score_all(address, reference, cases, k=8)
    for scores, case in zip(answers, cases, strict=True):
        reference.check(scores, *case)
        assert scores.vds.max() > 1
