"""What is valid comes through unchanged; whatever else comes is refused by name, never by accident."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protos import array_codec, error_codec, request_codec, scores_codec
from protos.errors import CODES, ErrorDetail, InternalFault, TeacherError, error_from_code
from protos.info_codec import info_from_proto, info_to_proto
from protos.item import Candidates, ScoreItem
from protos.prompt import Prompt
from protos.scores import PER_ENTRY, PER_ROW, Scores
from protos.teacher_info import Limits, SpecialIds, TeacherInfo
from protos.v1 import teacher_pb2 as pb
from tests.fuzz.admission import OK, OUTCOMES, SMALL, UNREADABLE, Admission, admission
from tests.nasty_pictures import flat
from tests.raw_stream import ids_message, put_message, score_message
from tests.stand_in_engine import IMAGE, INFO, VIDEO

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
I32 = st.integers(-(2**31), 2**31 - 1)
TOKENS = st.integers(7, INFO.vocab_size - 1)
"""Ids that may stand anywhere."""
EDGES = st.sampled_from(
    [-(2**31), -1, 0, 1, 2, 3, IMAGE, VIDEO, 40, INFO.vocab_size - 1, INFO.vocab_size, 2**31 - 1]
)
PICTURES = [flat((40, 40), form) for form in ("PNG", "JPEG", "WEBP")]


def over_the_wire(message: Message) -> Any:
    return type(message).FromString(message.SerializeToString())


@pytest.fixture(scope="module")
def admit() -> Iterator[Admission]:
    with admission() as each:
        yield each


# -------------------------------------------------------------------------------- valid, there and back


def arrays(elements: st.SearchStrategy[int], least: int, most: int) -> st.SearchStrategy[Any]:
    return hnp.arrays(np.int32, st.integers(least, most), elements=elements)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """As a good client makes them: one placeholder for each image."""
    text = draw(arrays(TOKENS, 1, 30))
    images = draw(st.lists(st.sampled_from(PICTURES), max_size=SMALL.max_images))
    if not images:
        return Prompt(
            text, text.copy(), (), draw(st.sampled_from(["", INFO.tokenizer_fingerprint]))
        )
    where = draw(st.lists(st.integers(0, len(text)), min_size=len(images), max_size=len(images)))
    return Prompt(
        mm_ids=np.insert(text, where, IMAGE),
        text_ids=text,
        images=tuple(images),
        processor_fingerprint=draw(st.text(max_size=8)),
        expected_responses=draw(U32),
    )


@st.composite
def items(draw: st.DrawFn) -> ScoreItem:
    response = draw(arrays(TOKENS, 1, 20))
    rows = st.lists(
        st.lists(TOKENS, max_size=SMALL.max_candidates),
        min_size=len(response),
        max_size=len(response),
    )
    candidates = draw(st.none() | rows.map(Candidates.from_rows))
    return ScoreItem(
        response,
        draw(st.integers(1, SMALL.max_k)),
        candidates,
        dtype=draw(st.sampled_from(["f32", "f16"])),
        deadline_s=draw(st.none() | U32.filter(bool).map(lambda ms: ms / 1000)),
        vocab_size=draw(U32),
        priority=draw(st.sampled_from(["train", "score"])),
    )


@settings(deadline=None)
@given(prompt=prompts(), prompt_id=U64)
def test_a_good_prompt_is_admitted_and_reads_as_it_was_written(
    admit: Admission, prompt: Prompt, prompt_id: int
) -> None:
    message = request_codec.prompt_to_proto(prompt, prompt_id)
    assert admit(pb.ClientMessage(put_prompt=message).SerializeToString()) == OK
    again = request_codec.prompt_from_proto(over_the_wire(message))
    assert again.digest == prompt.digest
    assert request_codec.prompt_to_proto(again, prompt_id) == message


@settings(deadline=None)
@given(item=items(), request_id=U64, prompt_id=U64)
def test_a_good_item_is_admitted_and_reads_as_it_was_written(
    admit: Admission, item: ScoreItem, request_id: int, prompt_id: int
) -> None:
    message = request_codec.item_to_proto(item, request_id, prompt_id)
    assert admit(pb.ClientMessage(score=message).SerializeToString()) == OK
    again = request_codec.item_from_proto(over_the_wire(message))
    assert request_codec.item_to_proto(again, request_id, prompt_id) == message
    assert again.priority == item.priority


@st.composite
def scores(draw: st.DrawFn) -> Scores:
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=12))
    rows, entries = len(counts), sum(counts)
    nats = st.floats(-60_000, 0, width=32)

    def floats(size: int) -> np.ndarray:
        return draw(hnp.arrays(np.float32, size, elements=nats))

    parts: dict[str, Any] = {name: floats(entries) for name in PER_ENTRY}
    parts |= {name: floats(rows) for name in PER_ROW}
    parts["support_ids"] = draw(hnp.arrays(np.int32, entries, elements=I32))
    parts["response_ids"] = draw(hnp.arrays(np.int32, rows, elements=I32))
    parts["tail_mask"] = draw(hnp.arrays(np.bool_, rows))
    return Scores(
        np.cumsum([0, *counts]).astype(np.int32),
        **parts,
        teacher_id=draw(st.text(max_size=8)),
        echo=draw(st.binary(min_size=16, max_size=16)),
        queue_s=draw(st.floats(0, 1e6)),
        engine_s=draw(st.floats(0, 1e6)),
    )


@settings(deadline=None)
@given(whole=scores(), request_id=U64, max_rows=st.integers(1, 15))
def test_scores_come_through_in_any_chunks(whole: Scores, request_id: int, max_rows: int) -> None:
    messages = [
        over_the_wire(m) for m in scores_codec.scores_to_protos(whole, request_id, "f32", max_rows)
    ]
    joined = Scores.join([scores_codec.scores_from_proto(message) for message in messages])
    assert joined.equal_to(whole)
    assert list(scores_codec.scores_to_protos(joined, request_id, "f32", max_rows)) == messages
    halves = Scores.join(
        [
            scores_codec.scores_from_proto(m)
            for m in scores_codec.scores_to_protos(whole, 1, "f16", max_rows)
        ]
    )
    for name in ("mm_logprobs", "text_logprobs"):
        exact = getattr(whole, name)
        close = np.abs(getattr(halves, name) - exact) <= np.maximum(np.abs(exact) / 2048, 2**-25)
        assert close.all()


LIMITS = st.builds(
    Limits,
    **{
        name: st.lists(st.text(max_size=5), max_size=4).map(tuple)
        if name == "image_formats"
        else U32
        for name in Limits.__dataclass_fields__
    },
)
INFOS = st.builds(
    TeacherInfo,
    **dict.fromkeys(
        ["teacher_id", "model_id", "model_revision", "model_fingerprint", "engine", "dtype"],
        st.text(max_size=9),
    ),
    tokenizer_fingerprint=st.text(max_size=64),
    processor_fingerprint=st.text(max_size=64),
    special_ids=st.builds(
        SpecialIds,
        st.none() | U32,
        st.none() | U32,
        st.lists(U32, max_size=4).map(tuple),
        st.lists(U32, max_size=4).map(tuple),
    ),
    vocab_size=U32,
    context_length=U32,
    deterministic=st.booleans(),
    limits=LIMITS,
    capabilities=st.lists(st.text(max_size=9), max_size=5).map(tuple),
    versions=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4),
)


@settings(deadline=None)
@given(INFOS)
def test_infos_come_through(info: TeacherInfo) -> None:
    assert info_from_proto(over_the_wire(info_to_proto(info))) == info


DETAILS = st.builds(
    ErrorDetail,
    *[st.text(max_size=20)] * 3,
    retry_after_ms=U32,
    error_id=st.text(max_size=12),
)


@settings(deadline=None)
@given(st.sampled_from(list(CODES)), st.text(max_size=50), DETAILS, U64, st.booleans())
def test_errors_come_through(
    kind: type[TeacherError], text: str, detail: ErrorDetail, item_id: int, of_prompt: bool
) -> None:
    which = {"prompt_id" if of_prompt else "request_id": item_id}
    message = over_the_wire(error_codec.error_to_proto(kind(text, detail), **which))
    assert {message.WhichOneof("item"): getattr(message, message.WhichOneof("item"))} == which
    error = error_codec.error_from_proto(message)
    assert type(error) is kind
    assert (error.message, error.detail) == (text, detail)


@given(U32, st.text(max_size=20))
def test_codes_outside_the_table_are_told(number: int, text: str) -> None:
    error = error_from_code(number, text)
    known = {code.value[0] for code in CODES.values()}
    assert text in error.message
    assert (type(error) is InternalFault and str(number) in error.message) == (number not in known)


# ----------------------------------------------------------------------------------- anything at all


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_random_bytes_are_admitted_nowhere(admit: Admission, data: bytes) -> None:
    assert admit(data) in OUTCOMES - {OK}


@st.composite
def wire_arrays(draw: st.DrawFn) -> pb.Array:
    """Often right, or wrong in one thing alone."""
    values = draw(st.lists(EDGES | TOKENS, max_size=12))
    message = ids_message(values)
    if draw(st.booleans()):
        return message
    if draw(st.booleans()):
        message.dtype = draw(st.integers(0, 6))  # type: ignore[assignment]
    if draw(st.booleans()):
        message.shape[:] = draw(
            st.lists(st.sampled_from([0, 1, 2, 3, 2**31, 2**32 - 1]), max_size=4)
        )
    if draw(st.booleans()):
        message.data += draw(st.binary(max_size=5))
    return message


SMALL_INTEGERS = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 9, 64, 65, 2**31, 2**32 - 1])
ENUMS = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 17, -1])


@st.composite
def wire_requests(draw: st.DrawFn) -> pb.ClientMessage:
    length = draw(st.integers(0, 6))
    counts = draw(st.lists(st.integers(0, 9), min_size=length, max_size=length))
    message = score_message(
        draw(U64),
        draw(st.lists(TOKENS, min_size=length, max_size=length)),
        k=draw(st.sampled_from([1, 4, 64, 64, 0, 65])),
        dtype=draw(st.sampled_from([pb.F32, pb.F16, pb.F32, pb.F16, 0, 3, 99])),
    )
    if draw(st.booleans()):
        message.candidate_splits.CopyFrom(ids_message(np.cumsum([0, *counts])))
        message.candidate_ids.CopyFrom(ids_message([40] * sum(counts)))
    for field in ("response_ids", "candidate_splits", "candidate_ids", "response_mask"):
        if draw(st.integers(0, 7)) == 0:
            getattr(message, field).CopyFrom(draw(wire_arrays()))
    if draw(st.integers(0, 3)) == 0:
        message.mode, message.priority = draw(ENUMS), draw(ENUMS)  # type: ignore[assignment]
        message.first_row, message.end_row = draw(SMALL_INTEGERS), draw(SMALL_INTEGERS)
        message.vocab_size, message.deadline_ms = draw(SMALL_INTEGERS), draw(SMALL_INTEGERS)
    if draw(st.integers(0, 15)) == 0:
        message.response_text = draw(st.text(max_size=5))
    return pb.ClientMessage(score=message)


@st.composite
def wire_prompts(draw: st.DrawFn) -> pb.ClientMessage:
    files = st.sampled_from([*PICTURES, *PICTURES, *PICTURES, b"/etc/passwd"])
    images = draw(st.lists(files, min_size=draw(st.integers(0, 1)), max_size=4))
    text = draw(st.lists(TOKENS, min_size=1, max_size=9))
    # Often one context alone has an id that it should not.
    odd = st.sampled_from([VIDEO, IMAGE, INFO.vocab_size]).map(lambda i: [i])
    mm_more, text_more = draw(
        st.sampled_from([0, 1, 2]).flatmap(
            lambda which: st.tuples(
                odd if which == 1 else st.just([]), odd if which == 2 else st.just([])
            )
        )
    )
    mm_ids, text_ids = [*[IMAGE] * len(images), *text, *mm_more], [*text, *text_more]
    message = put_message(draw(U64), mm_ids, text_ids, images).put_prompt
    for field in ("mm_ids", "text_ids"):
        if draw(st.integers(0, 5)) == 0:
            getattr(message.tokens, field).CopyFrom(draw(wire_arrays()))
    if draw(st.integers(0, 7)) == 0:
        message.text_context = draw(ENUMS)  # type: ignore[assignment]
        message.tokenizer_fingerprint = draw(st.text(max_size=99))
        message.processor_fingerprint = draw(st.text(max_size=99))
    for reserved in ("chat", "media_bounds"):
        if draw(st.integers(0, 15)) == 0:
            getattr(message, reserved).SetInParent()
    if draw(st.integers(0, 15)) == 0:
        message.media.add().video.SetInParent()
    return pb.ClientMessage(put_prompt=message)


WRAPPED = score_message(
    1,
    [40] * 4,
    candidate_splits=ids_message([0, 2**31 - 1, -(2**31), -1, 3]),
    candidate_ids=ids_message([1, 2, 3]),
)
ROUNDS = score_message(1, [40], response_ids=pb.Array(dtype=pb.I32, shape=[2**32 - 1] * 1500))


@pytest.mark.parametrize("kind", ["request", "prompt"])
def test_messages_of_any_content_are_admitted_or_refused_by_name(
    admit: Admission, kind: str
) -> None:
    seen: set[str] = set()

    @settings(deadline=None, max_examples=400, database=None)
    @given(wire_requests() if kind == "request" else wire_prompts())
    @example(pb.ClientMessage(score=WRAPPED))
    @example(pb.ClientMessage(score=ROUNDS))
    def check(message: pb.ClientMessage) -> None:
        outcome = admit(message.SerializeToString())
        assert outcome in OUTCOMES
        seen.add(outcome)

    check()
    assert {OK, "INVALID_ARGUMENT", "UNIMPLEMENTED"} <= seen, "all kinds were tried"


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A message with bytes changed, cut out or doubled."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 8))
        match draw(st.sampled_from(["change", "cut", "insert", "double", "end"])):
            case "change":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "cut":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case "double":
                data[at:at] = data[at : at + 4 * length]
            case _:
                del data[at:]
    return bytes(data)


@settings(deadline=None, max_examples=400)
@given(damaged((wire_requests() | wire_prompts()).map(lambda m: m.SerializeToString())))
def test_damaged_messages_are_admitted_or_refused_by_name(admit: Admission, data: bytes) -> None:
    assert admit(data) in OUTCOMES


# ------------------------------------------------------------------- what a broken server may answer


def server_messages() -> st.SearchStrategy[bytes]:
    def chunk(whole: Scores) -> bytes:
        (message,) = scores_codec.scores_to_protos(whole, 1, "f32", 100)
        return pb.ServerMessage(scores=message).SerializeToString()

    error = pb.ItemError(request_id=1, code=3, message="no", field="k")
    others = [pb.ServerMessage(error=error), pb.ServerMessage(credit=pb.Credit(granted_tokens=9))]
    return scores().map(chunk) | st.sampled_from(others).map(lambda m: m.SerializeToString())


@settings(deadline=None, max_examples=400)
@given(damaged(server_messages()))
def test_damaged_answers_are_read_or_refused_by_name(data: bytes) -> None:
    try:
        message = pb.ServerMessage.FromString(data)
    except DecodeError:
        return
    assert isinstance(error_codec.error_from_proto(message.error), TeacherError)
    try:
        chunk = scores_codec.scores_from_proto(message.scores)
    except TeacherError:
        return
    check_chunk(chunk)


def check_chunk(chunk: Scores) -> None:
    """In plain Python what whoever reads scores relies on."""
    splits = chunk.row_splits.tolist()
    assert (splits[0], splits[-1]) == (0, len(chunk.support_ids))
    assert all(a <= b for a, b in pairwise(splits))
    assert len(splits) == chunk.rows + 1
    assert {len(getattr(chunk, name)) for name in PER_ROW} == {chunk.rows}


@given(st.lists(EDGES, min_size=1, max_size=6))
@example([0, 2**31 - 1, -(2**31), -1, 3])
def test_splits_of_scores_rise_or_are_refused(splits: list[int]) -> None:
    rows, entries = len(splits) - 1, 3
    parts: dict[str, Any] = dict.fromkeys(PER_ROW, np.zeros(rows, np.float32))
    parts |= dict.fromkeys(PER_ENTRY, np.zeros(entries, np.float32))
    message = pb.Scores(row_splits=ids_message(splits))
    for name, array in parts.items():
        wire = pb.I32 if name.endswith("_ids") else pb.U8 if name == "tail_mask" else pb.F32
        getattr(message, name).CopyFrom(array_codec.array_to_proto(array, wire))
    try:
        check_chunk(scores_codec.scores_from_proto(message))
    except TeacherError:
        assert splits[0] != 0 or splits[-1] != entries or splits != sorted(splits)


def test_cut_anywhere_a_message_is_refused_or_unreadable(admit: Admission) -> None:
    whole = put_message(7, [IMAGE, 40], [40], [PICTURES[0]]).SerializeToString()
    assert admit(whole) == OK
    outcomes = [admit(whole[:end]) for end in range(len(whole))]
    assert OK not in outcomes
    assert UNREADABLE in outcomes
