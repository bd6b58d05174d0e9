"""The key must change with all that determines a score, and with nothing else."""

import hashlib
import struct
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from protos.item import Candidates, ScoreItem
from protos.prompt import ChatPrompt, Prompt
from protos.score_key import score_key
from protos.teacher_info import Limits, SpecialIds, TeacherInfo


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


INFO = TeacherInfo(
    teacher_id="here",
    model_id="m",
    model_revision="",
    model_fingerprint="weights",
    tokenizer_fingerprint="tokens",
    processor_fingerprint="pixels",
    special_ids=SpecialIds(),
    vocab_size=1000,
    context_length=4096,
    engine="transformers",
    dtype="bfloat16",
    deterministic=False,
)
PROMPT = Prompt(ids(1, 2, 3), ids(1, 3), (b"image",), "tokens", "pixels")
ITEM = ScoreItem(ids(4, 5, 6), k=8, candidates=Candidates.from_rows([[1], [2, 3], []]))


def test_the_documented_bytes_of_a_key() -> None:
    parts = [
        *(b"vgs.score.3", b"drop", b"topk"),
        *(b"weights", b"tokens", b"pixels"),
        *(struct.pack("<q", 1000), b"bfloat16", struct.pack("<q", 0), b""),
        *(PROMPT.digest, b"tokens", b""),
        *(b"ids", struct.pack("<iii", 4, 5, 6), b""),
        *(struct.pack("<iiii", 0, 1, 3, 3), struct.pack("<iii", 1, 2, 3)),
        *(struct.pack("<q", 8), b"f32", struct.pack("<q", 0), struct.pack("<q", 0)),
    ]
    written = b"".join(struct.pack("<Q", len(part)) + part for part in parts)
    assert score_key(INFO, PROMPT, ITEM) == hashlib.sha256(written).digest()


def test_the_form_of_the_arrays_does_not_count() -> None:
    again = replace(PROMPT, mm_ids=PROMPT.mm_ids.astype(">i4"))
    item = replace(ITEM, response_ids=ids(4, 0, 5, 0, 6)[::2])
    assert score_key(INFO, again, item) == score_key(INFO, PROMPT, ITEM)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            ScoreItem,
            "response_ids k candidates dtype vocab_size mode response_mask response_text response_turns token_texts | "
            "deadline_s priority",
        ),
        (
            Prompt,
            "mm_ids text_ids images tokenizer_fingerprint text_context | processor_fingerprint expected_responses",
        ),
        (ChatPrompt, "messages images text_context | expected_responses"),
        (
            TeacherInfo,
            "model_fingerprint tokenizer_fingerprint processor_fingerprint vocab_size dtype engine deterministic "
            "text_fingerprint | "
            "teacher_id model_id model_revision special_ids context_length limits capabilities versions",
        ),
    ],
)
def test_a_new_field_must_be_thought_of(kind: type, names: str) -> None:
    """Left of the bar: in the key. A field added to one of these must be named here, on the side it belongs to."""
    assert {field.name for field in fields(kind)} == set(names.split()) - {"|"}


@pytest.mark.parametrize(
    "change",
    [
        {"model_fingerprint": "other"},
        {"tokenizer_fingerprint": "other"},
        {"processor_fingerprint": "other"},
        {"dtype": "float32"},
        {"deterministic": True},
        {"vocab_size": 999},
    ],
    ids=str,
)
def test_what_the_teacher_is_changes_the_key(change: dict[str, Any]) -> None:
    assert score_key(replace(INFO, **change), PROMPT, ITEM) != score_key(INFO, PROMPT, ITEM)


@pytest.mark.parametrize(
    "change",
    [
        {"mm_ids": ids(1, 2, 4)},
        {"text_ids": ids(1, 4)},
        {"mm_ids": ids(1, 2), "text_ids": ids(3, 1, 3)},
        {"images": (b"imagE",)},
        {"images": (b"image", b"image")},
        {"images": ()},
        {"tokenizer_fingerprint": ""},
        {"text_context": "grey"},
    ],
    ids=str,
)
def test_what_the_prompt_is_changes_the_key(change: dict[str, Any]) -> None:
    assert score_key(INFO, replace(PROMPT, **change), ITEM) != score_key(INFO, PROMPT, ITEM)


@pytest.mark.parametrize(
    "change",
    [
        {"response_ids": ids(4, 5, 7)},
        {"response_ids": ids(4, 5)},
        {"k": 9},
        {"dtype": "f16"},
        {"vocab_size": 1000},
        {"candidates": None},
        {"candidates": Candidates.from_rows([[], [], []])},
        {"candidates": Candidates.from_rows([[1], [2, 4], []])},
        {"candidates": Candidates.from_rows([[1, 2], [3], []])},
        {"mode": "vds_only"},
        {"response_mask": np.array([True, False, True])},
        {"response_text": "456"},
        {"response_turns": "456"},
        {"token_texts": True},
    ],
    ids=str,
)
def test_what_is_asked_changes_the_key(change: dict[str, Any]) -> None:
    assert score_key(INFO, PROMPT, replace(ITEM, **change)) != score_key(INFO, PROMPT, ITEM)


@pytest.mark.parametrize(
    "change",
    [{"messages": "[ ]"}, {"images": ()}, {"images": (b"other",)}, {"text_context": "grey"}],
    ids=str,
)
def test_what_the_messages_are_changes_the_key(change: dict[str, Any]) -> None:
    prompt = ChatPrompt("[]", (b"image",))
    assert score_key(INFO, replace(prompt, **change), ITEM) != score_key(INFO, prompt, ITEM)


def test_how_text_becomes_ids_counts_where_there_is_text() -> None:
    other = replace(INFO, text_fingerprint="another template")
    chat, text = ChatPrompt("[]"), ScoreItem(response_text="so", mode="vds_only")
    assert score_key(other, chat, ITEM) != score_key(INFO, chat, ITEM)
    assert score_key(other, PROMPT, text) != score_key(INFO, PROMPT, text)
    assert score_key(other, PROMPT, ITEM) == score_key(INFO, PROMPT, ITEM)


def test_the_domain_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = score_key(INFO, PROMPT, ITEM)
    monkeypatch.setattr("protos.score_key.DOMAIN", "other")
    assert score_key(INFO, PROMPT, ITEM) != before


def test_a_part_can_not_pass_for_its_neighbour() -> None:
    shifted = replace(INFO, model_fingerprint="weightst", tokenizer_fingerprint="okens")
    assert score_key(shifted, PROMPT, ITEM) != score_key(INFO, PROMPT, ITEM)


def test_the_engine_counts_where_bits_are_promised() -> None:
    other = replace(INFO, engine="vllm")
    assert score_key(other, PROMPT, ITEM) == score_key(INFO, PROMPT, ITEM)
    exact, other_exact = (replace(info, deterministic=True) for info in (INFO, other))
    assert score_key(exact, PROMPT, ITEM) != score_key(other_exact, PROMPT, ITEM)


def test_how_soon_and_where_do_not_change_the_key() -> None:
    item = replace(ITEM, deadline_s=1.5, priority="score")
    prompt = replace(PROMPT, expected_responses=4, processor_fingerprint="the client's")
    info = replace(
        INFO, teacher_id="there", model_id="n", limits=Limits(max_k=9), versions={"torch": "9"}
    )
    assert score_key(info, prompt, item) == score_key(INFO, PROMPT, ITEM)


def test_a_teacher_without_a_fingerprint_has_no_key() -> None:
    with pytest.raises(ValueError, match="'here' publishes an empty model_fingerprint"):
        score_key(replace(INFO, model_fingerprint=""), PROMPT, ITEM)


def test_an_id_that_would_wrap_around_has_no_key() -> None:
    with pytest.raises(ValueError, match="must fit 32 bits"):
        score_key(INFO, PROMPT, replace(ITEM, response_ids=np.array([4 + 2**32])))
