"""What a server does with a client's bytes before any model sees them: parse, decode, check."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from google.protobuf.message import DecodeError

from protos.arrays import as_ids
from protos.error_codec import error_from_proto, error_to_proto
from protos.errors import CODES, InternalFault, TeacherError, Unimplemented
from protos.item import ScoreItem
from protos.prompt import AnyPrompt, Prompt
from protos.request_codec import (
    item_from_proto,
    prompt_from_proto,
    unsupported_prompt_part,
    unsupported_request_part,
)
from protos.scores import Scores
from protos.scores_codec import scores_from_proto, scores_to_protos
from protos.teacher_info import Limits, TeacherInfo
from protos.v1 import teacher_pb2 as pb
from teacher_server.core import TeacherCore
from teacher_server.engines.engine import PreparedPrompt
from teacher_server.validation import check_item_bytes
from tests.stand_in_engine import StandInEngine

SMALL = Limits(
    max_k=64,
    max_candidates=8,
    max_response_tokens=400,
    max_images=3,
    max_item_bytes=8_000,
    max_image_bytes=60_000,
    max_image_pixels=1_000_000,
    max_prompt_pixels=1_500_000,
)
UNREADABLE, IGNORED, OK = "UNREADABLE", "IGNORED", "OK"
OUTCOMES = {UNREADABLE, IGNORED, OK, *(code.name for code in CODES.values())} - {"INTERNAL"}


class Admission:
    """A core over an engine without a model. Call it with the bytes of a ClientMessage.

    Answers with OK, the name of a status code, or what else became of the message. Whatever it raises is a defect:
    every rule that an admitted prompt or item must keep is checked once more, in other words than the server's.
    """

    def __init__(self, limits: Limits = SMALL) -> None:
        self._loop = asyncio.new_event_loop()
        self._core = TeacherCore(StandInEngine(limits))
        self._good = self._prepared(Prompt(as_ids([40, 41]), as_ids([40, 41])))

    def close(self) -> None:
        """Free the threads."""
        self._loop.run_until_complete(self._core.close())
        self._loop.close()

    def __call__(self, data: bytes) -> str:
        """The outcome of one message."""
        try:
            message = pb.ClientMessage.FromString(data)
        except DecodeError:
            return UNREADABLE
        try:
            match message.WhichOneof("message"):
                case "put_prompt":
                    self._put(message.put_prompt)
                case "score":
                    self._score(message.score)
                case _:
                    return IGNORED
        except TeacherError as error:
            return _code_of(error)
        return OK

    def _put(self, message: pb.PutPrompt) -> None:
        check_item_bytes(message.ByteSize(), self._core.info)
        if (word := unsupported_prompt_part(message)) is not None:
            raise Unimplemented(word)
        prompt = prompt_from_proto(message)
        prepared = self._prepared(prompt)
        assert isinstance(prompt, Prompt), "an engine without a chat template takes no messages"
        check_admitted_prompt(prompt, prepared, self._core.info)

    def _prepared(self, prompt: AnyPrompt) -> PreparedPrompt:
        return self._loop.run_until_complete(self._core.prepare(prompt))

    def _score(self, message: pb.ScoreRequest) -> None:
        check_item_bytes(message.ByteSize(), self._core.info)
        if (word := unsupported_request_part(message)) is not None:
            raise Unimplemented(word)
        item = item_from_proto(message)
        # A deadline is a matter of time, and of the tests with a server.
        scores = self._loop.run_until_complete(self._scores(replace(item, deadline_s=None)))
        check_admitted_item(item, self._good, self._core.info)
        rows = self._core.info.limits.max_chunk_rows
        for chunk in scores_to_protos(scores, message.request_id, item.dtype, rows):
            scores_from_proto(chunk)

    async def _scores(self, item: ScoreItem) -> Scores:
        good = self._loop.create_future()
        good.set_result(self._good)
        return await self._core.score(good, item)


@contextlib.contextmanager
def admission(limits: Limits = SMALL) -> Iterator[Admission]:
    """One that is closed in the end."""
    admit = Admission(limits)
    try:
        yield admit
    finally:
        admit.close()


def _code_of(error: TeacherError) -> str:
    """Its code's name; the answer must be writable, readable, short, and no fault of the server."""
    assert not isinstance(error, InternalFault), error.message
    answer = pb.ItemError.FromString(error_to_proto(error, request_id=1).SerializeToString())
    assert type(error_from_proto(answer)) is type(error)
    assert answer.message
    assert answer.ByteSize() < 1000, "the answer to a large message is short"
    return CODES[type(error)].name


def check_admitted_prompt(prompt: Prompt, prepared: PreparedPrompt, info: TeacherInfo) -> None:
    """Slowly and plainly what docs/protocol.md promises of a prompt."""
    mm_ids, text_ids = prompt.mm_ids.tolist(), prompt.text_ids.tolist()
    special = info.special_ids
    assert 0 < len(mm_ids) <= prepared.mm_length < info.context_length
    assert 0 < len(text_ids) == prepared.text_length < info.context_length
    assert all(0 <= i < info.vocab_size for i in mm_ids + text_ids)
    assert mm_ids.count(special.image_placeholder) == len(prompt.images) <= info.limits.max_images
    assert special.video_placeholder not in mm_ids
    if prompt.images and prompt.text_context == "drop":
        assert not {special.image_placeholder, special.video_placeholder} & set(text_ids)
    else:
        assert mm_ids == text_ids
    assert prompt.tokenizer_fingerprint in ("", info.tokenizer_fingerprint)
    assert all(0 < len(image) <= info.limits.max_image_bytes for image in prompt.images)


def check_admitted_item(item: ScoreItem, prompt: PreparedPrompt, info: TeacherInfo) -> None:
    """The same of an item."""
    response, limits = item.response_ids.tolist(), info.limits
    assert 0 < len(response) <= limits.max_response_tokens
    assert len(response) + max(prompt.mm_length, prompt.text_length) <= info.context_length
    assert all(0 <= i < info.vocab_size for i in response)
    assert not set(response) & set(info.special_ids.forbidden_in_response)
    assert item.response_mask is None or item.response_mask.shape == (len(response),)
    assert item.response_mask is None or item.response_mask.any()
    assert 1 <= item.k <= limits.max_k or (item.mode != "topk" and item.k == 0)
    if item.candidates is None:
        return
    assert item.mode == "topk"
    splits, ids = item.candidates.splits.tolist(), item.candidates.ids.tolist()
    assert len(splits) == len(response) + 1
    assert (splits[0], splits[-1]) == (0, len(ids))
    assert all(0 <= b - a <= limits.max_candidates for a, b in pairwise(splits))
    assert all(0 <= i < info.vocab_size for i in ids)
