"""Round trips over real bytes: every message is serialised and parsed on its way."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import array_codec, request_codec, scores_codec
from protos.arrays import Ids
from protos.errors import InvalidItem
from protos.info_codec import info_from_proto, info_to_proto
from protos.item import Candidates, ScoreItem
from protos.prompt import ChatPrompt, Prompt
from protos.scores import PER_ENTRY, PER_ROW, Scores
from protos.teacher_info import Limits, SpecialIds, TeacherInfo
from protos.v1 import teacher_pb2 as pb

NUMPY = {pb.F32: np.float32, pb.F16: np.float16, pb.I32: np.int32, pb.U8: np.uint8}
I32 = st.integers(-(2**31), 2**31 - 1)
LOGPROBS = st.floats(-60_000, 0, width=16)
"""f16 holds them exactly, so that both wire types must give back the same."""


def over_the_wire(message: Message) -> Any:
    return type(message).FromString(message.SerializeToString())


def ids(elements: st.SearchStrategy[int] = I32, min_size: int = 0) -> st.SearchStrategy[Ids]:
    return st.lists(elements, min_size=min_size, max_size=20).map(lambda x: np.array(x, np.int32))


@st.composite
def scores(draw: st.DrawFn) -> Scores:
    counts = draw(st.lists(st.integers(1, 6), min_size=1, max_size=9))
    rows, entries = len(counts), sum(counts)

    def floats(size: int) -> np.ndarray:
        return draw(hnp.arrays(np.float32, size, elements=LOGPROBS))

    def integers(size: int) -> np.ndarray:
        return draw(hnp.arrays(np.int32, size, elements=st.integers(0, 2**31 - 1)))

    return Scores(
        row_splits=np.cumsum([0, *counts]).astype(np.int32),
        support_ids=integers(entries),
        mm_logprobs=floats(entries),
        text_logprobs=floats(entries),
        mm_tail=floats(rows),
        text_tail=floats(rows),
        tail_mask=draw(hnp.arrays(np.bool_, rows)),
        vds=-floats(rows),
        sampled_mm_logprobs=floats(rows),
        sampled_text_logprobs=floats(rows),
        response_ids=integers(rows),
        teacher_id=draw(st.text(max_size=5)),
        echo=draw(st.binary(min_size=16, max_size=16)),
        queue_s=0.25,
        engine_s=1.5,
        token_texts=draw(
            st.just(()) | st.lists(st.text(max_size=3), min_size=rows, max_size=rows).map(tuple)
        ),
    )


@pytest.mark.parametrize("dtype", list(NUMPY))
@settings(deadline=None)
@given(data=st.data())
def test_arrays(dtype: pb.DType, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(NUMPY[dtype], st.integers(0, 20)))
    got = array_codec.array_from_proto(
        over_the_wire(array_codec.array_to_proto(array, dtype)), "x", dtype
    )
    assert got.dtype == NUMPY[dtype]
    assert got.tobytes() == array.tobytes()


def test_arrays_are_little_endian_and_contiguous() -> None:
    big = np.array([1, 2, 3], dtype=">i4")[::2]
    message = array_codec.array_to_proto(big, pb.I32)
    assert message.data == b"\x01\0\0\0\x03\0\0\0"
    assert list(message.shape) == [2]


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (pb.Array(data=b"\0" * 7, dtype=pb.I32, shape=[2]), r"shape \[2\] but 7 bytes"),
        (pb.Array(data=b"\0" * 12, dtype=pb.I32, shape=[2]), r"shape \[2\] but 12 bytes"),
        (pb.Array(data=b"\0" * 8, dtype=pb.I32, shape=[2, 1]), r"shape \[2, 1\]"),
        (pb.Array(data=b"\0" * 4, dtype=pb.I32), r"shape \[\]"),
        (pb.Array(data=b"\0" * 8, dtype=pb.F32, shape=[2]), "dtype F32; send I32 or U8"),
        (pb.Array(data=b"\0" * 8, shape=[2]), "dtype DTYPE_UNSPECIFIED; send I32"),
        (pb.Array(data=b"\0" * 8, dtype=77, shape=[2]), "dtype 77; send I32"),  # type: ignore[arg-type]
    ],
)
def test_arrays_that_disagree_with_themselves_are_refused_by_field(
    message: pb.Array, what: str
) -> None:
    with pytest.raises(InvalidItem, match=what) as caught:
        array_codec.array_from_proto(over_the_wire(message), "some_field", pb.I32, pb.U8)
    assert caught.value.detail.field == "some_field"
    assert "some_field" in caught.value.message


@settings(deadline=None)
@given(
    mm_ids=ids(),
    text_ids=ids(),
    images=st.lists(st.binary(max_size=30), max_size=3),
    fingerprints=st.tuples(st.text(max_size=8), st.text(max_size=8)),
    expected=st.integers(0, 2**32 - 1),
    prompt_id=st.integers(0, 2**64 - 1),
)
def test_prompts(mm_ids, text_ids, images, fingerprints, expected, prompt_id) -> None:
    prompt = Prompt(mm_ids, text_ids, tuple(images), *fingerprints, expected)
    message = over_the_wire(request_codec.prompt_to_proto(prompt, prompt_id))
    got = request_codec.prompt_from_proto(message)
    assert message.prompt_id == prompt_id
    assert np.array_equal(got.mm_ids, mm_ids)
    assert np.array_equal(got.text_ids, text_ids)
    assert got.images == tuple(images)
    assert (got.tokenizer_fingerprint, got.processor_fingerprint) == fingerprints
    assert got.expected_responses == expected
    assert got.digest == prompt.digest
    assert request_codec.unsupported_prompt_part(message) is None


@settings(deadline=None)
@given(
    response=ids(min_size=1),
    k=st.integers(0, 2**32 - 1),
    rows=st.none() | st.lists(st.lists(I32, max_size=4), max_size=6),
    dtype=st.sampled_from(["f32", "f16"]),
    deadline_ms=st.none() | st.integers(1, 2**32 - 1),
    vocab_size=st.integers(0, 2**32 - 1),
    priority=st.sampled_from(["train", "score"]),
    mode=st.sampled_from(["topk", "vds_only", "sampled_only"]),
    mask=st.none() | st.lists(st.booleans(), min_size=1, max_size=20).map(np.array),
    texts=st.booleans(),
)
def test_items(
    response, k, rows, dtype, deadline_ms, vocab_size, priority, mode, mask, texts
) -> None:
    candidates = None if rows is None else Candidates.from_rows(rows)
    deadline_s = None if deadline_ms is None else deadline_ms / 1000
    options = (k, candidates, dtype, deadline_s, vocab_size, priority, mode, mask)
    item = ScoreItem(response, *options, token_texts=texts)
    message = over_the_wire(request_codec.item_to_proto(item, 7, 8))
    got = request_codec.item_from_proto(message)
    assert (message.request_id, message.prompt_id) == (7, 8)
    assert np.array_equal(got.response_ids, response)
    assert (got.k, got.dtype, got.vocab_size) == (k, dtype, vocab_size)
    assert (got.priority, got.mode, got.token_texts) == (priority, mode, texts)
    assert (got.response_text, got.response_turns) == (None, None)
    assert (got.response_mask is None) == (mask is None)
    assert mask is None or got.response_mask.tolist() == mask.tolist()
    assert got.deadline_s == deadline_s
    assert request_codec.unsupported_request_part(message) is None
    if rows is None:
        assert got.candidates is None
    else:
        assert got.candidates is not None
        splits, flat = got.candidates.splits, got.candidates.ids.tolist()
        assert [flat[a:b] for a, b in pairwise(splits)] == rows


@settings(deadline=None)
@given(
    messages=st.text(max_size=20),
    images=st.lists(st.binary(max_size=30), max_size=3),
    text_context=st.sampled_from(["drop", "grey"]),
    expected=st.integers(0, 2**32 - 1),
)
def test_prompts_of_messages(messages, images, text_context, expected) -> None:
    prompt = ChatPrompt(messages, tuple(images), text_context, expected)
    message = over_the_wire(request_codec.prompt_to_proto(prompt, 3))
    got = request_codec.prompt_from_proto(message)
    assert (got.messages, got.images) == (messages, tuple(images))
    assert (got.text_context, got.expected_responses) == (text_context, expected)
    assert got.digest == prompt.digest
    assert request_codec.unsupported_prompt_part(message) is None


@given(form=st.sampled_from(["response_text", "response_turns"]), text=st.text(max_size=20))
def test_items_of_text(form: str, text: str) -> None:
    item = ScoreItem(mode="vds_only", **{form: text})
    message = over_the_wire(request_codec.item_to_proto(item, 7, 8))
    got = request_codec.item_from_proto(message)
    assert getattr(got, form) == got.text == text
    assert not len(got.response_ids)
    assert got.cost(1000) == max(1, len(text.encode()))


def test_an_item_without_a_response_is_refused() -> None:
    with pytest.raises(InvalidItem, match="response_ids, response_text or response_turns"):
        request_codec.item_from_proto(pb.ScoreRequest(dtype=pb.F32))


@pytest.mark.parametrize(
    "field", ["response_ids", "response_mask", "candidate_splits", "candidate_ids"]
)
def test_an_items_bad_array_is_named(field: str) -> None:
    item = ScoreItem(np.array([1], np.int32), 4, Candidates.from_rows([[2, 3]]))
    item = replace(item, response_mask=np.array([True]))
    message = request_codec.item_to_proto(item, 1, 1)
    getattr(message, field).data += b"\0"
    with pytest.raises(InvalidItem, match=field) as caught:
        request_codec.item_from_proto(over_the_wire(message))
    assert caught.value.detail.field == field


@settings(deadline=None)
@given(scores(), st.sampled_from(["f32", "f16"]), st.integers(1, 10))
def test_scores_in_chunks(whole: Scores, dtype: Any, max_rows: int) -> None:
    messages = [over_the_wire(m) for m in scores_codec.scores_to_protos(whole, 9, dtype, max_rows)]
    assert {message.request_id for message in messages} == {9}
    assert {message.total_rows for message in messages} == {whole.rows}
    assert [message.last for message in messages] == [False] * (len(messages) - 1) + [True]
    chunks = [scores_codec.scores_from_proto(message) for message in messages]
    firsts = np.cumsum([0, *(chunk.rows for chunk in chunks)])[:-1]
    assert [message.first_row for message in messages] == firsts.tolist()
    assert all(chunk.rows <= max_rows for chunk in chunks)
    joined = Scores.join(chunks)
    assert joined.equal_to(whole)
    assert (joined.echo, joined.teacher_id) == (whole.echo, whole.teacher_id)
    assert (joined.queue_s, joined.engine_s) == (whole.queue_s, whole.engine_s)


def long_scores(rows: int, width: int) -> Scores:
    entry, row = np.arange(rows * width), np.arange(rows)
    parts: dict[str, Any] = {name: -entry.astype(np.float32) for name in PER_ENTRY}
    parts |= {name: -row.astype(np.float32) for name in PER_ROW}
    parts |= {"support_ids": entry.astype(np.int32), "response_ids": row.astype(np.int32)}
    splits = np.arange(0, rows * width + 1, width, dtype=np.int32)
    return Scores(splits, **parts | {"tail_mask": row % 2 == 0})


def test_chunks_stay_near_a_mebibyte_whatever_their_rows() -> None:
    whole = long_scores(rows=40, width=20_000)
    messages = list(scores_codec.scores_to_protos(whole, 1, "f32", max_rows=1000))
    assert len(messages) == 10  # 87,381 entries of 12 bytes to a MiB: four rows
    assert all(message.ByteSize() < 1.1 * scores_codec.CHUNK_BYTES for message in messages)
    assert Scores.join([scores_codec.scores_from_proto(m) for m in messages]).equal_to(whole)


@pytest.mark.parametrize("field", [*PER_ENTRY, *PER_ROW])
def test_scores_whose_arrays_disagree_are_refused(field: str) -> None:
    (message,) = scores_codec.scores_to_protos(long_scores(rows=3, width=2), 1, "f32", 10)
    array = scores_codec.scores_from_proto(message)
    shorter = getattr(array, field)[:-1]
    wire = pb.I32 if field.endswith("_ids") else pb.U8 if field == "tail_mask" else pb.F32
    getattr(message, field).CopyFrom(array_codec.array_to_proto(shorter, wire))
    with pytest.raises(InvalidItem, match=r"other lengths|don't fit"):
        scores_codec.scores_from_proto(over_the_wire(message))


@pytest.mark.parametrize("splits", [[0, 2, 4], [1, 2, 4, 6], [0, 4, 2, 6], [0, 2, 4, 5], []])
def test_scores_with_bad_splits_are_refused(splits: list[int]) -> None:
    (message,) = scores_codec.scores_to_protos(long_scores(rows=3, width=2), 1, "f32", 10)
    message.row_splits.CopyFrom(array_codec.array_to_proto(np.array(splits), pb.I32))
    with pytest.raises(InvalidItem, match=r"other lengths|don't fit"):
        scores_codec.scores_from_proto(over_the_wire(message))


@pytest.mark.parametrize("field", ["mm_logprobs", "text_logprobs"])
def test_what_f16_cannot_hold_is_refused_and_not_made_infinite(field: str) -> None:
    whole = long_scores(rows=2, width=2)
    at_limit = replace(whole, **{field: np.array([0, -1, -65_504, -2], np.float32)})
    (message,) = scores_codec.scores_to_protos(at_limit, 1, "f16", 10)
    assert getattr(scores_codec.scores_from_proto(message), field).tolist() == [0, -1, -65_504, -2]
    beyond = replace(whole, **{field: np.array([0, -1, -65_537, -2], np.float32)})
    with pytest.raises(InvalidItem, match="-65537 is outside f16; ask for F32"):
        list(scores_codec.scores_to_protos(beyond, 1, "f16", 10))
    assert len(list(scores_codec.scores_to_protos(beyond, 1, "f32", 10))) == 1


def test_teacher_info() -> None:
    info = TeacherInfo(
        *("toy", "digits", "main", "aa", "bb", "cc"),
        special_ids=SpecialIds(image_placeholder=0, forbidden_in_response=(0, 5), eos=(3,)),
        vocab_size=73,
        context_length=2048,
        engine="transformers",
        dtype="float32",
        deterministic=True,
        limits=Limits(max_k=7, image_formats=("PNG",)),
        capabilities=("tokens", "topk"),
        versions={"torch": "2"},
    )
    assert info_from_proto(over_the_wire(info_to_proto(info))) == info
