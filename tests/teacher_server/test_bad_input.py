"""Bad input over a real loopback server: a clear error with its code, then a good item on the same stream."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from protos.arrays import as_ids
from protos.connection import Connection, HeldPrompt
from protos.errors import (
    DeadlineExceeded,
    InternalFault,
    InvalidItem,
    LimitExceeded,
    PreconditionFailed,
    TeacherError,
)
from protos.item import Candidates, ScoreItem
from protos.prompt import Prompt
from protos.v1 import teacher_pb2 as pb
from tests.connected import connected
from tests.loopback import serving
from tests.nasty_pictures import flat, frames
from tests.pictures import noise
from tests.raw_stream import RawStream, ids_message, score_message
from tests.reference import Reference

QUESTION = "what stands in the picture?"
RESPONSE = as_ids([40, 50, 60])
LIMITS = {
    "max_k": 64,
    "max_candidates": 8,
    "max_response_tokens": 600,
    "max_images": 3,
    "max_item_bytes": 200_000,
    "max_image_bytes": 100_000,
    "max_image_pixels": 1_000_000,
    "max_prompt_pixels": 1_500_000,
    "stream_window_tokens": 600,
}


@pytest.fixture(scope="module")
def server(qwen: Path) -> Iterator[str]:
    with serving(qwen, limits=LIMITS) as address:
        yield address


@pytest.fixture
async def teacher(server: str, qwen_reference: Reference) -> AsyncIterator[Connection]:
    async with connected(server, tokenizer_fingerprint=qwen_reference.fingerprint) as client:
        yield client


@dataclass
class Bench:
    """A client, a good prompt, and what bad ones are made from."""

    teacher: Connection
    reference: Reference
    good: Prompt
    put: HeldPrompt

    async def score(self, **changes: object) -> object:
        return await self.teacher.score(self.put, replace(ScoreItem(RESPONSE, k=4), **changes))

    async def put_changed(self, **changes: object) -> object:
        return await self.teacher.put_prompt(replace(self.good, **changes))


@pytest.fixture
async def bench(teacher: Connection, qwen_reference: Reference) -> Bench:
    good = qwen_reference.prompt(QUESTION, (noise(0),))
    return Bench(teacher, qwen_reference, good, await teacher.put_prompt(good))


def of(bench: Bench, name: str) -> int:
    return bench.reference.processor.tokenizer.convert_tokens_to_ids(name)


def with_images(bench: Bench, *images: bytes) -> Awaitable[object]:
    prompt = bench.reference.prompt(QUESTION, images)
    return bench.teacher.put_prompt(prompt)


@dataclass
class Case:
    name: str
    act: Callable[[Bench], Awaitable[object]]
    error: type[TeacherError]
    says: tuple[str, ...]


CASES = [
    Case("id-past-the-model", lambda b: b.score(response_ids=as_ids([40, 100_000])), InvalidItem,
         ("response_ids[1]", "100000", "ids run from 0 to")),
    Case("negative-id", lambda b: b.score(response_ids=as_ids([-1])), InvalidItem, ("response_ids[0]", "-1")),
    Case("empty-response", lambda b: b.score(response_ids=as_ids([])), InvalidItem, ("response_ids is empty",)),
    Case("response-past-the-context", lambda b: b.score(response_ids=as_ids([40] * 512)), InvalidItem,
         ("context is 512", "never truncated")),
    Case("response-past-the-limit", lambda b: b.score(response_ids=as_ids([40] * 601)), InvalidItem,
         ("601 tokens", "limit is 600")),
    Case("image-placeholder-in-response", lambda b: b.score(response_ids=as_ids([40, of(b, "<|image_pad|>")])),
         InvalidItem, ("response_ids[1]", "stands for an image", "suppress")),
    Case("video-placeholder-in-response", lambda b: b.score(response_ids=as_ids([of(b, "<|video_pad|>")])),
         InvalidItem, ("response_ids[0]",)),
    Case("k-zero", lambda b: b.score(k=0), InvalidItem, ("k is 0", "1 to 64")),
    Case("k-above-the-limit", lambda b: b.score(k=65), InvalidItem, ("k is 65", "1 to 64")),
    Case("too-many-candidates",
         lambda b: b.score(candidates=Candidates.from_rows([range(9), (), ()])), InvalidItem,
         ("9 candidates", "limit is 8")),
    Case("candidates-of-other-length",
         lambda b: b.score(candidates=Candidates.from_rows([(1,), (2,)])), InvalidItem, ("candidate_splits",)),
    Case("candidate-splits-fall",
         lambda b: b.score(candidates=Candidates(as_ids([0, 2, 1, 3]), as_ids([1, 2, 3]))), InvalidItem,
         ("candidate_splits",)),
    Case("candidate-past-the-model",
         lambda b: b.score(candidates=Candidates.from_rows([(100_000,), (), ()])), InvalidItem,
         ("candidate_ids[0]", "100000")),
    Case("unknown-prompt",
         lambda b: b.teacher.score(replace(b.put, prompt_id=999), ScoreItem(RESPONSE, k=4)), PreconditionFailed,
         ("prompt 999", "put it first")),
    Case("deadline-passed", lambda b: b.score(deadline_s=1e-4, response_ids=as_ids([40] * 300)),
         DeadlineExceeded, ("deadline",)),
    Case("other-tokenizer", lambda b: b.put_changed(tokenizer_fingerprint="0" * 64), PreconditionFailed,
         ("tokenizer", "000000000000")),
    Case("no-image-for-the-placeholder", lambda b: b.put_changed(images=()), InvalidItem,
         ("1 image placeholders", "for 0 images")),
    Case("two-images-for-one-placeholder", lambda b: b.put_changed(images=(noise(1), noise(2))), InvalidItem,
         ("1 image placeholders", "for 2 images")),
    Case("placeholders-expanded-already",
         lambda b: b.put_changed(mm_ids=np.repeat(b.good.mm_ids, 4)), InvalidItem,
         ("4 image placeholders", "the teacher expands")),
    Case("placeholder-in-the-text-context", lambda b: b.put_changed(text_ids=b.good.mm_ids), InvalidItem,
         ("text_ids", "without images")),
    Case("two-contexts-without-images",
         lambda b: b.put_changed(images=(), mm_ids=as_ids([40, 41]), text_ids=as_ids([40])), InvalidItem,
         ("text_ids equal to mm_ids",)),
    Case("empty-prompt", lambda b: b.put_changed(mm_ids=as_ids([])), InvalidItem, ("mm_ids is empty",)),
    Case("prompt-id-past-the-model", lambda b: b.put_changed(text_ids=as_ids([5000])), InvalidItem,
         ("text_ids[0]", "5000")),
    Case("prompt-past-the-context",
         lambda b: b.put_changed(mm_ids=np.concatenate([b.good.mm_ids, as_ids([40] * 512)])), InvalidItem,
         ("context is 512",)),
    Case("undecodable-image", lambda b: with_images(b, b"not an image"), InvalidItem,
         ("media[0].image", "PNG, JPEG, WEBP")),
    Case("path-instead-of-an-image", lambda b: with_images(b, b"/etc/passwd"), InvalidItem, ("not a path or URL",)),
    Case("torn-image", lambda b: with_images(b, noise(3)[:200]), InvalidItem, ("media[0].image", "whole")),
    Case("empty-image", lambda b: with_images(b, b""), InvalidItem, ("media[0].image",)),
    Case("100-megapixel-image", lambda b: with_images(b, noise(4), flat((10_000, 10_000), mode="L")), InvalidItem,
         ("media[1].image", "10000 x 10000", "1000000")),
    Case("image-bytes-above-the-limit", lambda b: with_images(b, noise(5, (200, 200), "PNG")), InvalidItem,
         ("media[0].image", "limit is 100000")),
    Case("pixels-of-all-images", lambda b: with_images(b, *[flat((900, 900))] * 2), InvalidItem,
         ("1620000", "1500000")),
    Case("too-many-images", lambda b: with_images(b, *[noise(6)] * 4), InvalidItem, ("4 images", "limit is 3")),
    Case("image-that-the-model-refuses", lambda b: with_images(b, flat((3, 700))), InvalidItem,
         ("media[0].image (3 x 700)",)),
    Case("animated-image", lambda b: with_images(b, frames("WEBP")), InvalidItem, ("animated",)),
    Case("format-not-allowed", lambda b: with_images(b, flat((8, 8), "GIF")), InvalidItem, ("PNG, JPEG, WEBP",)),
    Case("item-larger-than-the-in-band-limit", lambda b: with_images(b, *[noise(7, (160, 160))] * 3),
         LimitExceeded, ("the item has", "limit is 200000")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_costs_nothing_but_itself(case: Case, bench: Bench):
    with pytest.raises(case.error) as caught:
        await case.act(bench)
    for part in case.says:
        assert part in str(caught.value)
    scores = await bench.score()
    bench.reference.check(scores, QUESTION, bench.good.images, RESPONSE)


async def test_bad_items_among_good_ones(bench: Bench):
    lengths = [3, 0, 5, 600, 7]
    answers = await asyncio.gather(
        *(bench.score(response_ids=as_ids([40 + n] * n)) for n in lengths), return_exceptions=True
    )
    assert [isinstance(a, TeacherError) for a in answers] == [False, True, False, True, False]


async def test_the_same_prompt_twice_and_another_under_its_id(bench: Bench):
    raw = RawStream(bench.teacher.address)
    async with raw:
        put = pb.PutPrompt(prompt_id=7)
        put.tokens.mm_ids.CopyFrom(ids_message([40, 41]))
        put.tokens.text_ids.CopyFrom(ids_message([40, 41]))
        first = await raw.ask(pb.ClientMessage(put_prompt=put))
        again = await raw.ask(pb.ClientMessage(put_prompt=put))
        assert first.prompt_ack.mm_length == again.prompt_ack.mm_length == 2
        put.tokens.mm_ids.CopyFrom(ids_message([40, 42]))
        clash = await raw.ask(pb.ClientMessage(put_prompt=put))
        assert clash.error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
        assert clash.error.prompt_id == 7
        assert "7" in clash.error.message


async def test_a_client_that_does_not_read_gets_no_more_credit(qwen: Path):
    limits = {"max_response_tokens": 20, "stream_window_tokens": 40}
    with serving(qwen, limits=limits) as address:
        async with RawStream(address) as raw:
            await raw.put([40])
            for n in range(400):
                await raw.write(pb.ClientMessage(score=score_message(n + 1, [50] * 20, k=300)))
            await asyncio.sleep(1.0)
            answers = [await raw.next_answer() for _ in range(400)]
    refused = [a for a in answers if a.WhichOneof("message") == "error"]
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert len(refused) > 0
    assert {a.error.code for a in refused} == {exhausted}


async def test_an_empty_response_costs_something(qwen: Path):
    limits = {"max_response_tokens": 2, "stream_window_tokens": 2}
    with serving(qwen, limits=limits, engine={"batch_wait_ms": 300}) as address:
        async with RawStream(address) as raw:
            await raw.put([40])
            await raw.write(pb.ClientMessage(score=score_message(1, [50, 50])))
            answer = await raw.ask(pb.ClientMessage(score=score_message(2, [])))
    assert answer.error.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_what_was_asked_before_a_drop_is_scored_and_a_cancel_at_once_is_answered(
    server: str,
):
    async with RawStream(server) as raw:
        await raw.put([40])
        await raw.write(pb.ClientMessage(score=score_message(1, [50, 51])))
        await raw.write(pb.ClientMessage(drop_prompt=pb.DropPrompt(prompt_id=1)))
        assert (await raw.next_answer()).scores.total_rows == 2
        await raw.put([40])
        await raw.write(pb.ClientMessage(score=score_message(2, [50] * 300)))
        answer = await raw.ask(pb.ClientMessage(cancel=pb.Cancel(request_id=2)))
        assert answer.error.code == grpc.StatusCode.CANCELLED.value[0]
        answer = await raw.ask(pb.ClientMessage(score=score_message(2, [50] * 300)))
        assert answer.scores.total_rows == 300, "the id is free and the credit is back"


@pytest.mark.parametrize(
    ("limits", "says"),
    [({"max_prompts": 2}, "holds 2 prompts"), ({"max_stream_bytes": 60_000}, "limit is 60000")],
)
async def test_prompts_are_bounded_and_a_drop_makes_room(limits, says, qwen, qwen_reference):
    with serving(qwen, limits=limits) as address:
        async with connected(address) as teacher:
            prompts = [qwen_reference.prompt(f"{n}?", (noise(n, (16, 16)),)) for n in range(6)]
            first = await teacher.put_prompt(prompts[0])
            answers = await asyncio.gather(
                *(teacher.put_prompt(prompt) for prompt in prompts[1:]), return_exceptions=True
            )
            refused = [a for a in answers if isinstance(a, LimitExceeded)]
            assert 1 <= len(refused) < 5
            assert all(says in str(error) for error in refused)
            teacher.forget_prompt(first)
            put = await teacher.put_prompt(prompts[0])
            assert (await teacher.score(put, ScoreItem(RESPONSE, k=4))).rows == 3


async def test_nan_in_the_logits_is_an_internal_error_with_an_id(qwen: Path, tmp_path, caplog):
    model = AutoModelForImageTextToText.from_pretrained(qwen)
    with torch.no_grad():
        model.get_input_embeddings().weight[99] = float("nan")
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(qwen).save_pretrained(tmp_path)
    with serving(tmp_path) as address:
        async with connected(address) as teacher:
            put = await teacher.put_prompt(Prompt(as_ids([40]), as_ids([40])))
            answers = await asyncio.gather(
                teacher.score(put, ScoreItem(as_ids([50, 99, 51]), k=4)),
                teacher.score(put, ScoreItem(RESPONSE, k=4)),
                return_exceptions=True,
            )
    assert isinstance(answers[0], InternalFault)
    assert answers[0].detail.error_id in caplog.text
    assert answers[1].rows == 3, "the one beside it is scored"


async def test_a_phones_jpeg_with_a_second_frame_is_a_picture(bench: Bench):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="MPO", save_all=True, append_images=frames[1:])
    put = await bench.teacher.put_prompt(bench.reference.prompt(QUESTION, (buffer.getvalue(),)))
    assert (await bench.teacher.score(put, ScoreItem(RESPONSE, k=4))).rows == 3


UNIMPLEMENTED = {
    "hidden_states": lambda m: setattr(m, "mode", pb.MODE_HIDDEN_STATES),
    "row_range": lambda m: setattr(m, "end_row", 1),
    "priority 9": lambda m: setattr(m, "priority", 9),
}
UNIMPLEMENTED_PROMPTS = {
    "video": lambda m: m.media.add().video.SetInParent(),
    "media_bounds": lambda m: m.media_bounds.SetInParent(),
    "text_context 7": lambda m: setattr(m, "text_context", 7),
}


@pytest.mark.parametrize("word", UNIMPLEMENTED)
async def test_reserved_parts_of_a_request_are_named(word: str, bench: Bench):
    message = pb.ScoreRequest(request_id=5, prompt_id=1, k=4, dtype=pb.F32)
    message.response_ids.CopyFrom(ids_message([40]))
    UNIMPLEMENTED[word](message)
    async with RawStream(bench.teacher.address) as raw:
        answer = await raw.ask(pb.ClientMessage(score=message))
    assert answer.error.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert repr(word) in answer.error.message
    assert word not in bench.teacher.info.capabilities


@pytest.mark.parametrize("word", UNIMPLEMENTED_PROMPTS)
async def test_reserved_parts_of_a_prompt_are_named(word: str, bench: Bench):
    message = pb.PutPrompt(prompt_id=5)
    message.tokens.mm_ids.CopyFrom(ids_message([40]))
    message.tokens.text_ids.CopyFrom(ids_message([40]))
    UNIMPLEMENTED_PROMPTS[word](message)
    async with RawStream(bench.teacher.address) as raw:
        answer = await raw.ask(pb.ClientMessage(put_prompt=message))
    assert answer.error.code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    assert repr(word) in answer.error.message
    assert word not in bench.teacher.info.capabilities


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (pb.Array(data=b"\0" * 7, dtype=pb.I32, shape=[2]), "7 bytes"),
        (pb.Array(data=b"\0" * 8, dtype=pb.I32, shape=[2**31]), "8 bytes"),
        (pb.Array(data=b"\0" * 8, dtype=pb.I32, shape=[1, 2]), "one dimension"),
        (pb.Array(data=b"\0" * 8, dtype=pb.F32, shape=[2]), "dtype F32"),
        (pb.Array(data=b"\0" * 8, dtype=99, shape=[2]), "dtype 99"),
    ],
)
async def test_counts_and_shapes_are_checked_against_the_bytes(array, says, bench: Bench):
    message = pb.ScoreRequest(request_id=1, prompt_id=1, k=4, dtype=pb.F32, response_ids=array)
    async with RawStream(bench.teacher.address) as raw:
        put = pb.PutPrompt(prompt_id=1)
        put.tokens.mm_ids.CopyFrom(ids_message([40]))
        put.tokens.text_ids.CopyFrom(ids_message([40]))
        await raw.ask(pb.ClientMessage(put_prompt=put))
        answer = await raw.ask(pb.ClientMessage(score=message))
        assert answer.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert says in answer.error.message
        message.response_ids.CopyFrom(ids_message([41, 42]))
        answer = await raw.ask(pb.ClientMessage(score=message))
        assert answer.scores.total_rows == 2


async def test_a_message_beyond_grpcs_limit_is_refused_by_the_client(bench: Bench):
    with pytest.raises(LimitExceeded, match=r"gRPC limit is 400000.*whole call"):
        await with_images(bench, b"\0" * 500_000)
    await bench.score()


async def test_a_message_beyond_grpcs_limit_ends_the_call_and_the_client_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    limits = replace(bench.teacher.info.limits, max_message_bytes=2**30)
    monkeypatch.setattr(bench.teacher, "_info", replace(bench.teacher.info, limits=limits))
    with pytest.raises(LimitExceeded, match="ends the whole call"):
        await with_images(bench, b"\0" * 500_000)


async def test_connecting_with_another_tokenizer_is_refused_before_any_rollout(server: str):
    with pytest.raises(PreconditionFailed, match="another tokenizer"):
        async with connected(server, tokenizer_fingerprint="f" * 64):
            pass
