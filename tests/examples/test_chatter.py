"""Chatty responses: the base task's words with fillers between them, in two dialects."""

import numpy as np
import pytest

from examples.digits.chatter import DIALECTS, FILLERS, SLOTS, Chatter
from examples.digits.processor import make_processor
from examples.digits.questions import KINDS, response, vocabulary

MAX_NEW_TOKENS = 33


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_its_fillers_a_chatty_response_is_the_plain_one(kind, dialect):
    words = Chatter(dialect, seed=0).response(kind, 4, 7).split()
    assert " ".join(word for word in words if word not in FILLERS) == response(kind, 4, 7)
    left, right = words.index("left"), words.index("right")
    runs = words[1:left], words[left + 2 : right], words[right + 2 :]
    assert tuple(sum(word in FILLERS for word in run) for run in runs) == SLOTS


def test_fillers_are_no_words_of_the_base_task():
    assert not set(FILLERS) & set(vocabulary())
    assert len(set(FILLERS)) == len(FILLERS)


def test_each_dialect_is_spoken_as_often_as_it_says():
    for dialect, likely in DIALECTS.items():
        chatter = Chatter(dialect, seed=0)
        words = " ".join(chatter.response("read", 4, 7) for _ in range(1000)).split()
        counts = np.array([words.count(filler) for filler in FILLERS])
        assert counts.sum() == 1000 * sum(SLOTS)
        error = np.sqrt(likely * (1 - likely) / counts.sum())
        assert np.all(np.abs(counts / counts.sum() - likely) < 5 * error)


def test_the_dialects_like_opposite_fillers():
    teacher, student = DIALECTS["teacher"], DIALECTS["student"]
    assert teacher.sum() == pytest.approx(1)
    assert student.sum() == pytest.approx(1)
    assert np.all(np.diff(teacher) < 0)
    assert np.all(np.diff(student) > 0)
    # Nats for each filler that the student says: of a response, 53 against some 13 of its digits.
    assert (student * np.log(student / teacher)).sum() == pytest.approx(6.68, abs=0.01)


def test_the_same_seed_says_the_same_and_another_does_not():
    said = [
        [chatter.response("sum", 4, 7) for _ in range(3)]
        for chatter in (Chatter("student", 0), Chatter("student", 0), Chatter("student", 1))
    ]
    assert said[0] == said[1] != said[2]
    assert len(set(said[0])) == 3


def test_the_chatty_tokenizer_knows_every_word_and_numbers_the_rest_as_base_does():
    base, chatty = make_processor().tokenizer, make_processor(FILLERS).tokenizer
    words = base.get_vocab()
    assert chatty.get_vocab().items() > words.items()
    assert sorted(set(chatty.get_vocab().values()) - set(words.values())) == list(range(73, 89))
    for kind in KINDS:
        ids = chatty(Chatter("teacher", 0).response(kind, 9, 9) + chatty.eos_token).input_ids
        assert chatty.unk_token_id not in ids
        assert len(ids) <= MAX_NEW_TOKENS
