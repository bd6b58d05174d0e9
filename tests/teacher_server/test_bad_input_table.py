"""What a hostile or broken client may send, over a real server: the code and words of the answer, then a good item.

Messages are made by hand, so that what our own client would refuse is sent too.
"""

import asyncio
import logging
import pickle
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.arrays import as_ids
from protos.item import ScoreItem
from protos.prompt import Prompt
from protos.scores import Scores
from protos.sync_client import SyncTeacherClient
from protos.v1 import teacher_pb2 as pb
from tests import nasty_pictures as nasty
from tests.loopback import serving
from tests.pictures import noise
from tests.raw_stream import (
    CODE_NAMES,
    PROMPT,
    REQUEST,
    Answers,
    RawStream,
    ids_message,
    put_message,
    score_message,
)
from tests.reference import Reference

QUESTION = "what stands in the picture?"
RESPONSE = [40, 50, 60]
GOOD, BAD, OTHER = 1, 66, 67
"""Ids of prompts and requests: the good ones, the one that a case is about, one more that it may need."""
CONTEXT = 512
LIMITS = {
    "max_k": 64,
    "max_candidates": 8,
    "max_response_tokens": 600,
    "stream_window_tokens": 700,
    "max_images": 3,
    "max_prompts": 4,
    "max_item_bytes": 400_000,
    "max_stream_bytes": 300_000,
    "max_image_bytes": 60_000,
    "max_image_pixels": 1_000_000,
    "max_prompt_pixels": 1_500_000,
}
Message = pb.ClientMessage | bytes


@dataclass(frozen=True)
class World:
    """What messages are made from: a good prompt with one image, and ids with a role."""

    good: Prompt
    image: int
    """Placeholder of an image."""
    video: int
    vocab: int

    def put_good(self) -> pb.ClientMessage:
        return put_message(GOOD, self.good.mm_ids, self.good.text_ids, self.good.images)

    def put(self, *images: bytes, **changes: Any) -> pb.ClientMessage:
        """The good prompt's text with these images, under the bad id."""
        start, end = np.split(self.good.mm_ids, np.flatnonzero(self.good.mm_ids == self.image))
        mm_ids = np.concatenate([start, [self.image] * len(images), end[1:]])
        return put_message(BAD, mm_ids, self.good.text_ids, images, **changes)


@dataclass(frozen=True)
class Case:
    """`outcomes` are all answers but those to the good prompt and item; `says` stands in the errors' messages."""

    name: str
    says: tuple[str, ...]
    outcomes: tuple[tuple[str, int, str], ...]
    messages: Callable[[World], Sequence[Message]]


def item(name: str, code: str, says: Sequence[str] = (), **changes: Any) -> Case:
    """A request about the good prompt with fields changed; a function of the world makes a field."""

    def messages(world: World) -> list[Message]:
        own = {key: make(world) if callable(make) else make for key, make in changes.items()}
        request = score_message(BAD, RESPONSE, prompt_id=GOOD)
        for field, value in own.items():
            if isinstance(value, pb.Array):
                getattr(request, field).CopyFrom(value)
            else:
                setattr(request, field, value)
        return [pb.ClientMessage(score=request)]

    return Case(f"item-{name}", tuple(says), ((REQUEST, BAD, code),), messages)


def prompt(name: str, code: str, says: Sequence[str], make: Callable[[World], Message]) -> Case:
    return Case(f"prompt-{name}", tuple(says), ((PROMPT, BAD, code),), lambda world: [make(world)])


def image(name: str, code: str, says: Sequence[str], *files: bytes) -> Case:
    return prompt(f"image-{name}", code, says, lambda world: world.put(*files))


def several(
    name: str,
    says: Sequence[str],
    outcomes: Sequence[tuple[str, int, str]],
    messages: Callable[[World], Sequence[Message]],
) -> Case:
    return Case(name, tuple(says), tuple(outcomes), messages)


def array(data: bytes, dtype: int = pb.I32, shape: Sequence[int] = ()) -> pb.Array:
    return pb.Array(data=data, dtype=dtype, shape=shape)  # type: ignore[arg-type]


def splits(*values: int) -> dict[str, pb.Array]:
    """Candidates 1, 2, 3 with these splits."""
    return {"candidate_splits": ids_message(values), "candidate_ids": ids_message([1, 2, 3])}


def score(request_id: int, response: Sequence[int], **changes: Any) -> pb.ClientMessage:
    changes = {"prompt_id": GOOD} | changes
    return pb.ClientMessage(score=score_message(request_id, response, **changes))


def chat_prompt(messages: str, *images: bytes) -> pb.ClientMessage:
    media = [pb.Media(image=data) for data in images]
    chat = pb.ChatPrompt(messages_json=messages)
    return pb.ClientMessage(put_prompt=pb.PutPrompt(prompt_id=BAD, chat=chat, media=media))


def text_prompt(prompt_id: int, *ids: int, **changes: Any) -> pb.ClientMessage:
    return put_message(prompt_id, ids or [40, 41], **changes)


def unknown_field(message: pb.ClientMessage) -> bytes:
    """As a newer client would write it: field 1000, a string, before what is known."""
    return b"\xc2\x3e\x05hello" + message.SerializeToString()


BAD_ARGUMENT, PRECONDITION = "INVALID_ARGUMENT", "FAILED_PRECONDITION"
TOO_MUCH, LACKING = "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"
I31, U32 = 2**31 - 1, 2**32 - 1
NO_IMAGE = ("media[0].image", "PNG, JPEG, WEBP", "not a path or URL")
TORN = ("media[0].image can't be decoded", "whole")
SPLITS = ("candidate_splits must rise from 0 to 3", "4 entries")
PHOTO = noise(1, (40, 40), "JPEG")
DRAWING = noise(2, (40, 40), "PNG")
NOTHING = ()

RESPONSES = [
    item("of-floats", BAD_ARGUMENT, ("response_ids has dtype F32", "send I32"),
         response_ids=array(bytes(8), pb.F32, [2])),
    item("of-bytes", BAD_ARGUMENT, ("response_ids has dtype U8",), response_ids=array(bytes(8), pb.U8, [8])),
    item("without-a-dtype", BAD_ARGUMENT, ("DTYPE_UNSPECIFIED", "send I32"),
         response_ids=array(bytes(8), pb.DTYPE_UNSPECIFIED, [2])),
    item("of-an-unknown-dtype", BAD_ARGUMENT, ("response_ids has dtype 99",),
         response_ids=array(bytes(8), 99, [2])),
    item("with-a-byte-too-few", BAD_ARGUMENT, ("shape [2] but 7 bytes", "4 bytes each"),
         response_ids=array(bytes(7), shape=[2])),
    item("with-an-id-too-many", BAD_ARGUMENT, ("shape [2] but 12 bytes",), response_ids=array(bytes(12), shape=[2])),
    item("of-a-huge-shape", BAD_ARGUMENT, ("shape [2147483648] but 8 bytes",),
         response_ids=array(bytes(8), shape=[2**31])),
    item("of-a-negative-shape", BAD_ARGUMENT, ("shape [4294967295] but 4 bytes",),
         response_ids=array(bytes(4), shape=[U32])),
    item("whose-product-of-shapes-overflows", BAD_ARGUMENT, ("shape [2147483648, 2147483648, 4] but 0 bytes",),
         response_ids=array(b"", shape=[2**31, 2**31, 4])),
    item("of-two-dimensions", BAD_ARGUMENT, ("shape [1, 2] but 8 bytes", "one dimension"),
         response_ids=array(bytes(8), shape=[1, 2])),
    item("of-no-dimension", BAD_ARGUMENT, ("shape [] but 4 bytes",), response_ids=array(bytes(4))),
    item("of-70000-dimensions", BAD_ARGUMENT, ("shape of 70000 dimensions but 4 bytes",),
         response_ids=array(bytes(4), shape=[U32] * 70_000)),
    item("empty", BAD_ARGUMENT, ("response_ids is empty", "at least one id"), response_ids=array(b"", shape=[0])),
    item("negative-id", BAD_ARGUMENT, ("response_ids[1] is -1", "ids run from 0 to"),
         response_ids=ids_message([40, -1])),
    item("smallest-id", BAD_ARGUMENT, (f"response_ids[0] is {-I31 - 1}",), response_ids=ids_message([-I31 - 1])),
    item("id-just-past-the-model", BAD_ARGUMENT, ("response_ids[2]", "the teacher's tokenizer"),
         response_ids=lambda w: ids_message([40, 41, w.vocab])),
    item("largest-id", BAD_ARGUMENT, (f"response_ids[0] is {I31}",), response_ids=ids_message([I31])),
    item("image-placeholder", BAD_ARGUMENT, ("response_ids[1]", "stands for an image", "suppress"),
         response_ids=lambda w: ids_message([40, w.image])),
    item("video-placeholder", BAD_ARGUMENT, ("response_ids[0]", "stands for an image"),
         response_ids=lambda w: ids_message([w.video])),
    item("past-the-limit", BAD_ARGUMENT, ("601 tokens", "limit is 600", "never truncated"),
         response_ids=ids_message([40] * 601)),
    item("past-the-context", BAD_ARGUMENT, ("context is 512", "never truncated"),
         response_ids=ids_message([40] * CONTEXT)),
    item("past-the-credit", TOO_MUCH, ("701 tokens", "credit is 700", "wait for more"),
         response_ids=ids_message([40] * 701)),
    several("item-without-a-response", ("set response_ids",), [(REQUEST, BAD, BAD_ARGUMENT)],
            lambda w: [pb.ClientMessage(
                score=pb.ScoreRequest(request_id=BAD, prompt_id=GOOD, k=4, dtype=pb.F32))]),
]  # fmt: skip

REQUESTS = [
    item("k-zero", BAD_ARGUMENT, ("k is 0", "1 to 64"), k=0),
    item("k-above-the-limit", BAD_ARGUMENT, ("k is 65", "1 to 64"), k=65),
    item("k-minus-one", BAD_ARGUMENT, (f"k is {U32}", "1 to 64"), k=U32),
    item("dtype-unset", BAD_ARGUMENT, ("dtype 0", "F32 or F16"), dtype=pb.DTYPE_UNSPECIFIED),
    item("dtype-of-integers", BAD_ARGUMENT, ("dtype 3", "F32 or F16"), dtype=pb.I32),
    item("dtype-unknown", BAD_ARGUMENT, ("dtype 99", "F32 or F16"), dtype=99),
    item("mode-without-support-with-k", BAD_ARGUMENT, ("vds_only has no support", "k 0"), mode=pb.MODE_VDS_ONLY),
    item("mode-without-support-with-candidates", BAD_ARGUMENT, ("sampled_only has no support",),
         mode=pb.MODE_SAMPLED_ONLY, k=0, **splits(0, 1, 1, 3)),
    item("mode-hidden-states", LACKING, ("'hidden_states'", "Describe"), mode=pb.MODE_HIDDEN_STATES),
    item("mode-unknown", LACKING, ("'mode 17'",), mode=17),
    item("text-empty", BAD_ARGUMENT, ("response_text is empty",), response_text=""),
    item("text-past-the-limit", BAD_ARGUMENT, ("limit is 600", "never truncated"), response_text="a x" * 900),
    item("text-with-a-placeholder", BAD_ARGUMENT, ("stands for an image",), response_text="it is <|image_pad|>"),
    item("text-with-a-mask", BAD_ARGUMENT, ("response_mask counts tokens", "send response_ids"),
         response_text="a temple", response_mask=array(b"\1", pb.U8, [1])),
    item("text-with-candidates", BAD_ARGUMENT, ("candidate_ids counts tokens",),
         response_text="a temple", **splits(0, 1, 2, 3)),
    item("turns-after-ids", PRECONDITION, ("the prompt came as ids", "response_mask"),
         response_turns='[{"role": "assistant", "content": "a temple"}]'),
    item("mask-too-short", BAD_ARGUMENT, ("2 entries for 3 tokens",), response_mask=array(b"\1\1", pb.U8, [2])),
    item("mask-of-nothing", BAD_ARGUMENT, ("0 throughout", "mark at least one"),
         response_mask=array(b"\0\0\0", pb.U8, [3])),
    item("mask-of-integers", BAD_ARGUMENT, ("dtype I32; send U8",),
         response_mask=array(b"\0" * 12, pb.I32, [3])),
    item("first-row", LACKING, ("'row_range'",), first_row=1),
    item("end-row", LACKING, ("'row_range'",), end_row=1),
    item("priority-unknown", LACKING, ("'priority 9'",), priority=9),
    item("deadline-of-a-millisecond", "DEADLINE_EXCEEDED", ("deadline of 0.001 s", "allow more time"),
         deadline_ms=1, response_ids=ids_message([40] * 300)),
    item("larger-than-the-in-band-limit", TOO_MUCH, ("the item has", "limit is 400000"),
         candidate_ids=ids_message([1] * 100_001)),
    item("unknown-prompt", PRECONDITION, ("prompt 999", "put it first"), prompt_id=999),
    several("item-of-a-dropped-prompt", (f"prompt {OTHER}", "put it first"),
            [(PROMPT, OTHER, "OK"), (REQUEST, BAD, PRECONDITION)],
            lambda w: [text_prompt(OTHER), pb.ClientMessage(drop_prompt=pb.DropPrompt(prompt_id=OTHER)),
                       score(BAD, RESPONSE, prompt_id=OTHER)]),
    several("item-of-a-refused-prompt", ("mm_ids[1] is 5000", "prompt"),
            [(PROMPT, OTHER, BAD_ARGUMENT), (REQUEST, BAD, PRECONDITION)],
            lambda w: [text_prompt(OTHER, 40, 5000), score(BAD, RESPONSE, prompt_id=OTHER)]),
    several("item-with-an-id-under-way", (f"request {BAD} is still under way", "new id"),
            [(REQUEST, BAD, "ALREADY_EXISTS"), (REQUEST, BAD, "OK")],
            lambda w: [score(BAD, [40] * 300), score(BAD, [41] * 300)]),
    several("item-cancelled-at-once", ("took the item back",), [(REQUEST, BAD, "CANCELLED")],
            lambda w: [score(BAD, [40] * 300), pb.ClientMessage(cancel=pb.Cancel(request_id=BAD))]),
]  # fmt: skip

CANDIDATES = [
    item("splits-start-late", BAD_ARGUMENT, SPLITS, **splits(1, 1, 2, 3)),
    item("splits-start-below-zero", BAD_ARGUMENT, SPLITS, **splits(-1, 1, 2, 3)),
    item("splits-fall", BAD_ARGUMENT, SPLITS, **splits(0, 2, 1, 3)),
    item("splits-too-few", BAD_ARGUMENT, SPLITS, **splits(0, 1, 3)),
    item("splits-too-many", BAD_ARGUMENT, SPLITS, **splits(0, 1, 2, 3, 3)),
    item("splits-empty", BAD_ARGUMENT, SPLITS, **splits()),
    item("splits-past-the-candidates", BAD_ARGUMENT, SPLITS, **splits(0, 1, 2, 4)),
    item("splits-leave-candidates-over", BAD_ARGUMENT, SPLITS, **splits(0, 1, 2, 2)),
    item("splits-wrap-around", BAD_ARGUMENT, ("candidate_splits must rise from 0 to 3", "5 entries"),
         response_ids=ids_message([40] * 4), **splits(0, I31, -I31 - 1, -1, 3)),
    item("splits-of-floats", BAD_ARGUMENT, ("candidate_splits has dtype F32",),
         candidate_splits=array(bytes(16), pb.F32, [4]), candidate_ids=ids_message([1])),
    item("splits-alone", BAD_ARGUMENT, ("candidate_ids has dtype DTYPE_UNSPECIFIED",),
         candidate_splits=ids_message([0, 0, 0, 0])),
    item("candidates-without-splits", BAD_ARGUMENT, ("candidate_splits has dtype DTYPE_UNSPECIFIED",),
         candidate_ids=ids_message([1])),
    item("candidates-of-two-dimensions", BAD_ARGUMENT, ("candidate_ids has shape [3, 1]",),
         candidate_splits=ids_message([0, 1, 2, 3]), candidate_ids=array(bytes(12), shape=[3, 1])),
    item("candidates-above-the-limit", BAD_ARGUMENT, ("9 candidates", "limit is 8"),
         candidate_splits=ids_message([0, 0, 9, 9]), candidate_ids=ids_message(range(9))),
    item("candidate-below-zero", BAD_ARGUMENT, ("candidate_ids[2] is -7",),
         candidate_splits=ids_message([0, 1, 2, 3]), candidate_ids=ids_message([1, 2, -7])),
    item("candidate-past-the-model", BAD_ARGUMENT, ("candidate_ids[0]", "ids run from 0 to"),
         candidate_splits=ids_message([0, 1, 1, 1]), candidate_ids=lambda w: ids_message([w.vocab])),
]  # fmt: skip

PROMPTS = [
    prompt("other-tokenizer", PRECONDITION, ("tokenizer 000000000000", "use the teacher's"),
           lambda w: text_prompt(BAD, tokenizer_fingerprint="0" * 64)),
    prompt("tokenizer-of-100-kilobytes", PRECONDITION, ("tokenizer ffffffffffff",),
           lambda w: text_prompt(BAD, tokenizer_fingerprint="f" * 100_000)),
    prompt("without-ids", BAD_ARGUMENT, ("set `tokens`",),
           lambda w: pb.ClientMessage(put_prompt=pb.PutPrompt(prompt_id=BAD))),
    prompt("without-mm-ids", BAD_ARGUMENT, ("mm_ids has dtype DTYPE_UNSPECIFIED",),
           lambda w: text_prompt(BAD, tokens=pb.TokenPrompt(text_ids=ids_message([40])))),
    prompt("without-text-ids", BAD_ARGUMENT, ("text_ids has dtype DTYPE_UNSPECIFIED",),
           lambda w: text_prompt(BAD, tokens=pb.TokenPrompt(mm_ids=ids_message([40])))),
    prompt("of-halves", BAD_ARGUMENT, ("mm_ids has dtype F16",),
           lambda w: text_prompt(BAD, tokens=pb.TokenPrompt(mm_ids=array(bytes(4), pb.F16, [2])))),
    prompt("mm-bytes-of-another-shape", BAD_ARGUMENT, ("mm_ids has shape [3] but 8 bytes",),
           lambda w: text_prompt(BAD, tokens=pb.TokenPrompt(mm_ids=array(bytes(8), shape=[3])))),
    prompt("text-of-two-dimensions", BAD_ARGUMENT, ("text_ids has shape [2, 1]",),
           lambda w: text_prompt(BAD, tokens=pb.TokenPrompt(
               mm_ids=ids_message([40, 41]), text_ids=array(bytes(8), shape=[2, 1])))),
    prompt("mm-empty", BAD_ARGUMENT, ("mm_ids is empty",), lambda w: put_message(BAD, [], [40])),
    prompt("text-empty", BAD_ARGUMENT, ("text_ids is empty",), lambda w: put_message(BAD, [40], [])),
    prompt("mm-negative-id", BAD_ARGUMENT, ("mm_ids[1] is -1",), lambda w: text_prompt(BAD, 40, -1)),
    prompt("mm-id-past-the-model", BAD_ARGUMENT, ("mm_ids[0]",), lambda w: text_prompt(BAD, w.vocab)),
    prompt("text-largest-id", BAD_ARGUMENT, (f"text_ids[0] is {I31}",),
           lambda w: put_message(BAD, [40], [I31])),
    prompt("placeholder-without-image", BAD_ARGUMENT, ("1 image placeholders", "for 0 images"),
           lambda w: put_message(BAD, w.good.mm_ids, w.good.text_ids)),
    prompt("image-without-placeholder", BAD_ARGUMENT, ("0 image placeholders", "for 1 images"),
           lambda w: put_message(BAD, [40], [40], [PHOTO])),
    prompt("two-images-for-a-placeholder", BAD_ARGUMENT, ("1 image placeholders", "for 2 images"),
           lambda w: put_message(BAD, w.good.mm_ids, w.good.text_ids, [PHOTO, DRAWING])),
    prompt("expanded-already", BAD_ARGUMENT, ("9 image placeholders", "the teacher expands it"),
           lambda w: put_message(BAD, [w.image] * 9, [40], [PHOTO])),
    prompt("placeholder-in-the-text-context", BAD_ARGUMENT, ("text_ids[1]", "without images"),
           lambda w: put_message(BAD, [w.image, 40], [40, w.image], [PHOTO])),
    prompt("video-placeholder", BAD_ARGUMENT, ("mm_ids[0]", "written by the teacher itself"),
           lambda w: put_message(BAD, [w.video, 40], [40])),
    prompt("video-placeholder-in-the-text-context", BAD_ARGUMENT, ("text_ids[0]", "without images"),
           lambda w: put_message(BAD, [w.image, 40], [w.video], [PHOTO])),
    prompt("two-contexts-without-images", BAD_ARGUMENT, ("text_ids equal to mm_ids",),
           lambda w: put_message(BAD, [40, 41], [40])),
    prompt("as-long-as-the-context", BAD_ARGUMENT, ("has 512 tokens", "context is 512"),
           lambda w: text_prompt(BAD, *[40] * CONTEXT)),
    prompt("past-the-context-with-its-image", BAD_ARGUMENT, ("context is 512", "smaller images"),
           lambda w: put_message(BAD, [w.image, *[40] * 508], [40], [PHOTO])),
    prompt("of-30000-ids-and-a-torn-image", BAD_ARGUMENT, ("has 30001 tokens", "context is 512"),
           lambda w: put_message(BAD, [w.image, *[40] * 30_000], [40], [DRAWING[:99]])),
    prompt("of-too-many-images", BAD_ARGUMENT, ("4 images", "limit is 3"), lambda w: w.put(*[PHOTO] * 4)),
    prompt("of-10000-empty-media", BAD_ARGUMENT, ("10000 images", "limit is 3"),
           lambda w: text_prompt(BAD, media=[pb.Media()] * 10_000)),
    prompt("medium-of-no-kind", BAD_ARGUMENT, NO_IMAGE,
           lambda w: put_message(BAD, [w.image], [40], media=[pb.Media()])),
    prompt("of-messages-that-are-no-json", BAD_ARGUMENT, ("messages_json", "send a JSON list"),
           lambda w: chat_prompt("what is it?")),
    prompt("of-no-messages", BAD_ARGUMENT, ("0 messages",), lambda w: chat_prompt("[]")),
    prompt("of-a-message-without-content", BAD_ARGUMENT, ("messages_json[0].content", "Field required"),
           lambda w: chat_prompt('[{"role": "user"}]')),
    prompt("of-a-message-by-a-stranger", BAD_ARGUMENT, ("messages_json[0].role",),
           lambda w: chat_prompt('[{"role": "narrator", "content": "it rains"}]')),
    prompt("of-a-message-with-a-link", BAD_ARGUMENT, ("messages_json[0].content",),
           lambda w: chat_prompt('[{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]')),
    prompt("of-a-message-with-half-a-character", BAD_ARGUMENT, ("messages_json",),
           lambda w: chat_prompt('[{"role": "user", "content": "\\ud800"}]')),
    prompt("of-nested-messages", BAD_ARGUMENT, ("messages_json",), lambda w: chat_prompt("[" * 10_000)),
    prompt("of-messages-with-an-image-too-few", BAD_ARGUMENT, ("0 parts", "for 1 images"),
           lambda w: chat_prompt('[{"role": "user", "content": "what is it?"}]', PHOTO)),
    prompt("of-messages-with-an-image-too-many", BAD_ARGUMENT, ("1 parts", "for 0 images"),
           lambda w: chat_prompt('[{"role": "user", "content": [{"type": "image"}]}]')),
    prompt("of-messages-that-end-with-the-answer", BAD_ARGUMENT, ("assistant's", "send it as the response"),
           lambda w: chat_prompt('[{"role": "assistant", "content": "a temple"}]')),
    prompt("of-messages-that-write-a-placeholder", BAD_ARGUMENT, ("1 image placeholders", "for 0 images"),
           lambda w: chat_prompt('[{"role": "user", "content": "<|image_pad|>"}]')),
    prompt("of-messages-and-too-many-images", BAD_ARGUMENT, ("4 images", "limit is 3"),
           lambda w: chat_prompt("[]", *[PHOTO] * 4)),
    prompt("video", LACKING, ("'video'",),
           lambda w: put_message(BAD, [w.image], [40], media=[pb.Media(video=pb.Video(frames=[PHOTO], fps=2))])),
    prompt("media-bounds", LACKING, ("'media_bounds'",),
           lambda w: text_prompt(BAD, media_bounds=pb.MediaBounds(max_pixels=9))),
    prompt("grey-context-without-placeholders", BAD_ARGUMENT, ("grey images stand", "text_ids equal to mm_ids"),
           lambda w: w.put(PHOTO, text_context=pb.TEXT_CONTEXT_GREY)),
    prompt("text-context-unknown", LACKING, ("'text_context 7'",), lambda w: text_prompt(BAD, text_context=7)),
    prompt("larger-than-the-in-band-limit", TOO_MUCH, ("the item has", "limit is 400000"),
           lambda w: text_prompt(BAD, processor_fingerprint="p" * 400_000)),
    prompt("larger-than-a-stream-may-hold", TOO_MUCH, ("the stream's prompts would take", "300000", "drop some"),
           lambda w: text_prompt(BAD, processor_fingerprint="p" * 350_000)),
    several("prompt-under-the-good-ones-id", (f"prompt {GOOD}", "other content", "new id"),
            [(PROMPT, GOOD, "ALREADY_EXISTS")], lambda w: [text_prompt(GOOD)]),
    several("prompts-too-many", ("holds 4 prompts", "drop some"),
            [*((PROMPT, n, "OK") for n in (2, 3, 4)), (PROMPT, BAD, TOO_MUCH)],
            lambda w: [text_prompt(n) for n in (2, 3, 4, BAD)]),
]  # fmt: skip

IMAGES = [
    image("empty", BAD_ARGUMENT, ("media[0].image (0 bytes)",), b""),
    image("junk", BAD_ARGUMENT, NO_IMAGE, bytes(range(256)) * 8),
    image("url", BAD_ARGUMENT, NO_IMAGE, b"https://169.254.169.254/latest/meta-data/photo.png"),
    image("path", BAD_ARGUMENT, NO_IMAGE, b"/etc/passwd"),
    image("file-url", BAD_ARGUMENT, NO_IMAGE, b"file:///etc/passwd"),
    image("data-url", BAD_ARGUMENT, NO_IMAGE, b"data:image/png;base64,iVBORw0KGgo="),
    image("pickle", BAD_ARGUMENT, NO_IMAGE, pickle.dumps({"image": [1, 2, 3]})),
    image("svg", BAD_ARGUMENT, NO_IMAGE, b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    image("gif", BAD_ARGUMENT, NO_IMAGE, nasty.flat((40, 40), "GIF")),
    image("bmp", BAD_ARGUMENT, NO_IMAGE, nasty.flat((40, 40), "BMP")),
    image("tiff", BAD_ARGUMENT, NO_IMAGE, nasty.flat((40, 40), "TIFF")),
    image("ppm", BAD_ARGUMENT, NO_IMAGE, nasty.flat((40, 40), "PPM")),
    image("eps", BAD_ARGUMENT, NO_IMAGE, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n"),
    image("png-header-alone", BAD_ARGUMENT, ("media[0].image",), DRAWING[:33]),
    image("png-torn", BAD_ARGUMENT, TORN, DRAWING[:2000]),
    image("png-wrong-checksum", BAD_ARGUMENT, ("media[0].image",), DRAWING[:29] + b"\0\0\0\0" + DRAWING[33:]),
    image("png-junk-for-pixels", BAD_ARGUMENT, TORN, nasty.png(pixels=b"no zlib stream")),
    image("png-rows-missing", BAD_ARGUMENT, TORN, nasty.png((40, 40), pixels=DRAWING[41:60])),
    image("png-no-pixels", BAD_ARGUMENT, ("media[0].image",), nasty.png((0, 8))),
    image("png-100-megapixels", BAD_ARGUMENT, ("10000 x 10000", "limit is 1000000", "scale it down"),
          nasty.flat((10_000, 10_000), mode="1")),
    image("png-header-of-2-gigapixels-a-side", BAD_ARGUMENT, ("2147483647 x 2147483647",),
          nasty.png((I31, I31), pixels=b"")),
    image("png-animated", BAD_ARGUMENT, ("media[0].image is animated", "one frame"), nasty.frames("PNG")),
    image("png-of-profiles", BAD_ARGUMENT, ("40 colour profiles", "limit is 4"), nasty.png_of_profiles(40)),
    image("png-of-compressed-texts", BAD_ARGUMENT, ("media[0].image",), nasty.png_of_texts(40)),
    image("png-of-compressed-international-texts", BAD_ARGUMENT, ("media[0].image",),
          nasty.png_of_texts(40, b"iTXt")),
    image("jpeg-header-alone", BAD_ARGUMENT, ("media[0].image",), PHOTO[:20]),
    image("jpeg-torn", BAD_ARGUMENT, TORN, PHOTO[:-200]),
    image("jpeg-header-of-65500-a-side", BAD_ARGUMENT, ("65500 x 65500", "limit is 1000000"),
          nasty.jpeg_with_size(65_500, 65_500)),
    image("jpeg-no-pixels", BAD_ARGUMENT, ("media[0].image",), nasty.jpeg_with_size(0, 16)),
    image("jpeg-of-12-bits", BAD_ARGUMENT, NO_IMAGE, nasty.jpeg_of_depth(12)),
    image("jpeg-of-3000-scans", BAD_ARGUMENT, ("scans", "limit is 100"), nasty.jpeg_of_scans(3000)),
    image("webp-header-alone", BAD_ARGUMENT, ("media[0].image",), nasty.flat((40, 40), "WEBP")[:20]),
    image("webp-torn", BAD_ARGUMENT, ("media[0].image",), noise(3, (40, 40), "WEBP")[:-100]),
    image("webp-animated", BAD_ARGUMENT, ("media[0].image is animated", "one frame"), nasty.frames("WEBP")),
    image("webp-canvas-of-60000-a-side", BAD_ARGUMENT, ("60000 x 60000",), nasty.webp_with_canvas(60_000, 60_000)),
    image("bytes-above-the-limit", BAD_ARGUMENT, ("media[1].image has", "limit is 60000", "smaller file"),
          PHOTO, noise(4, (150, 150))),
    image("pixels-above-the-limit", BAD_ARGUMENT, ("media[0].image has 1001 x 1000 pixels", "limit is 1000000"),
          nasty.flat((1001, 1000))),
    image("pixels-of-all", BAD_ARGUMENT, ("1620000 pixels in all", "limit is 1500000", "fewer or smaller"),
          *[nasty.flat((900, 900))] * 2),
    image("good-one-and-torn-one", BAD_ARGUMENT, ("media[1].image can't be decoded",), PHOTO, DRAWING[:2000]),
    image("nothing-for-this-model", BAD_ARGUMENT, ("media[0].image (3 x 700)",), nasty.flat((3, 700))),
]  # fmt: skip

FINE = [
    image("16-bit-png-is-fine", "OK", NOTHING, nasty.sixteen_bit()),
    image("grey-png-with-alpha-is-fine", "OK", NOTHING, nasty.flat((40, 40), mode="LA")),
    image("one-bit-png-is-fine", "OK", NOTHING, nasty.flat((40, 40), mode="1")),
    image("palette-with-transparency-is-fine", "OK", NOTHING, nasty.palette_with_transparency()),
    image("cmyk-jpeg-is-fine", "OK", NOTHING, nasty.flat((40, 40), "JPEG", mode="CMYK")),
    image("progressive-jpeg-is-fine", "OK", NOTHING, nasty.flat((40, 40), "JPEG", progressive=True)),
    image("phone-held-upright-is-fine", "OK", NOTHING, nasty.jpeg_with_orientation((60, 30), 6)),
    image("lossless-webp-is-fine", "OK", NOTHING, nasty.flat((40, 40), "WEBP", lossless=True)),
    item("vocabulary-of-one-is-fine", "OK", vocab_size=1),
    item("vocabulary-beyond-the-model-is-fine", "OK", vocab_size=U32),
    item("largest-deadline-is-fine", "OK", deadline_ms=U32),
    item("mode-vds-only-is-fine", "OK", mode=pb.MODE_VDS_ONLY, k=0),
    item("mode-sampled-only-is-fine", "OK", mode=pb.MODE_SAMPLED_ONLY, k=0),
    item("mask-is-fine", "OK", response_mask=array(b"\0\1\1", pb.U8, [3])),
    item("text-is-fine", "OK", response_text="a temple"),
    item("texts-of-tokens-are-fine", "OK", token_texts=True),
    prompt("of-messages-is-fine", "OK", NOTHING,
           lambda w: chat_prompt('[{"role": "user", "content": [{"type": "image"}]}]', PHOTO)),
    prompt("grey-context-without-images-is-fine", "OK", NOTHING,
           lambda w: text_prompt(BAD, text_context=pb.TEXT_CONTEXT_GREY)),
    item("halves-are-fine", "OK", dtype=pb.F16),
    several("same-prompt-again-is-fine", NOTHING, [(PROMPT, GOOD, "OK")], lambda w: [w.put_good()]),
    several("id-of-zero-is-fine", NOTHING, [(PROMPT, 0, "OK"), (REQUEST, 0, "OK")],
            lambda w: [text_prompt(0), score(0, RESPONSE, prompt_id=0)]),
    several("largest-ids-are-fine", NOTHING, [(PROMPT, 2**64 - 1, "OK"), (REQUEST, 2**64 - 1, "OK")],
            lambda w: [text_prompt(2**64 - 1), score(2**64 - 1, RESPONSE, prompt_id=2**64 - 1)]),
    several("unknown-field-is-skipped", NOTHING, [(REQUEST, BAD, "OK")],
            lambda w: [unknown_field(score(BAD, RESPONSE))]),
    several("cancel-of-an-unknown-id-is-ignored", NOTHING, [],
            lambda w: [pb.ClientMessage(cancel=pb.Cancel(request_id=999))]),
    several("drop-of-an-unknown-prompt-is-ignored", NOTHING, [],
            lambda w: [pb.ClientMessage(drop_prompt=pb.DropPrompt(prompt_id=999))]),
    several("empty-message-is-ignored", NOTHING, [], lambda w: [pb.ClientMessage(), b""]),
    several("message-of-another-kind-is-ignored", NOTHING, [], lambda w: [b"\xc2\x3e\x05hello"]),
]  # fmt: skip

CASES = [*RESPONSES, *REQUESTS, *CANDIDATES, *PROMPTS, *IMAGES, *FINE]


@pytest.fixture(scope="module")
def server(qwen: Path) -> Iterator[str]:
    with serving(qwen, limits=LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def world(server: str, qwen_reference: Reference) -> World:
    with SyncTeacherClient(server) as teacher:
        info = teacher.info
    assert info.special_ids.image_placeholder is not None
    assert info.special_ids.video_placeholder is not None
    assert info.context_length == CONTEXT
    return World(
        good=qwen_reference.prompt(QUESTION, (noise(0),)),
        image=info.special_ids.image_placeholder,
        video=info.special_ids.video_placeholder,
        vocab=info.vocab_size,
    )


@pytest.fixture(scope="module")
def expected(server: str, world: World, qwen_reference: Reference) -> Scores:
    """What the good item must give, once and for all checked against the model itself."""
    with SyncTeacherClient(server) as teacher:
        put = teacher.put_prompt(world.good)
        scores = teacher.score(put, ScoreItem(as_ids(RESPONSE), k=4))
    qwen_reference.check(scores, QUESTION, world.good.images, as_ids(RESPONSE))
    return scores


def test_the_table_is_large_and_its_names_are_unique():
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


# Pillow warns of what it makes do with; the server says what it can't use, and that alone counts.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_bad_input_costs_nothing_but_itself(
    case: Case,
    server: str,
    world: World,
    expected: Scores,
    caplog: pytest.LogCaptureFixture,
):
    answers = Answers()
    async with asyncio.timeout(60), RawStream(server) as raw:
        await raw.write(world.put_good())
        for message in case.messages(world):
            await raw.write(message)
        wanted = Counter([(PROMPT, GOOD, "OK"), *case.outcomes])
        while sum(map(len, answers.outcomes.values())) < wanted.total():
            answers.take(await raw.read() or pytest.fail("the stream ended"))
        good = score(GOOD, RESPONSE)
        await raw.write(good)
        await raw.half_close()
        while (answer := await raw.read()) is not None:
            answers.take(answer)
        assert await raw.status() == ("OK", "")
    wanted[REQUEST, GOOD, "OK"] += 1
    got = Counter((*key, outcome) for key, each in answers.outcomes.items() for outcome in each)
    assert got == wanted, [error.message for error in answers.errors]
    said = " | ".join(error.message for error in answers.errors)
    for part in case.says:
        assert part in said
    for error in answers.errors:
        assert not error.error_id
        assert len(error.message) < 500
        assert len(error.value) < 200, "the value is shortened"
        assert error.field or CODE_NAMES[error.code] == "CANCELLED", "a refusal names its field"
    faults = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert faults == [], "what clients get wrong is no fault of the server"
    check_good(answers.scores[GOOD], expected)
    spent = sum(max(1, answers.scores[n].rows) for n in answers.scores)
    assert answers.granted[-1] >= LIMITS["stream_window_tokens"] + spent, "the credit came back"
    assert answers.granted == sorted(answers.granted)


def check_good(got: Scores, expected: Scores) -> None:
    np.testing.assert_array_equal(got.response_ids, RESPONSE)
    np.testing.assert_array_equal(got.support_ids, expected.support_ids)
    np.testing.assert_allclose(got.mm_logprobs, expected.mm_logprobs, atol=1e-5)
    np.testing.assert_allclose(got.text_logprobs, expected.text_logprobs, atol=1e-5)
    np.testing.assert_allclose(got.vds, expected.vds, atol=1e-5)
    assert got.echo == expected.echo


BROKEN = {
    "junk": bytes(range(255, 0, -1)),
    "cut-short": score(BAD, RESPONSE).SerializeToString()[:-3],
    "length-past-the-end": b"\x1a" + b"\xff\xff\xff\x7f" + b"short",
    "text-that-is-no-utf8": b"\x0a\x08\x3a\x06\xff\xfe\xfd\xfc\xfb\xfa",
    "a-million-of-junk": struct.pack("<I", 0xDEADBEEF) * 100_000,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_bytes_that_are_no_message_end_the_call_alone(
    name: str, server: str, world: World, expected: Scores
):
    async with asyncio.timeout(60), RawStream(server) as beside:
        await beside.write(world.put_good())
        assert (await status_after(server, BROKEN[name]))[0] != "OK"
        await beside.write(score(GOOD, RESPONSE))
        await beside.half_close()
        answers = Answers()
        while (answer := await beside.read()) is not None:
            answers.take(answer)
    check_good(answers.scores[GOOD], expected)


@pytest.mark.parametrize("name", BROKEN)
async def test_bytes_that_are_no_message_are_the_clients_fault(name: str, server: str):
    async with asyncio.timeout(60):
        code, details = await status_after(server, BROKEN[name])
    assert (code, "internal" in details) == ("INVALID_ARGUMENT", False)


async def status_after(address: str, data: bytes) -> tuple[str, str]:
    """How a call ends that sent these bytes."""
    async with RawStream(address) as raw:
        await raw.write(data)
        while await raw.read() is not None:
            pass
        return await raw.status()
