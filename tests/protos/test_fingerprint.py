import hashlib
import struct
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from protos.fingerprint import echo, image_digest, prompt_digest, tokenizer_fingerprint
from protos.prompt import Prompt


@dataclass
class Vocabulary:
    """What the fingerprint reads of a tokenizer."""

    tokens: dict[str, int]
    special: tuple[int, ...] = ()
    added: tuple[int, ...] = field(default=())

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        ids = (*self.added, *self.special)
        return {i: SimpleNamespace(special=i in self.special) for i in ids}

    def get_vocab(self) -> dict[str, int]:
        return self.tokens


TINY = Vocabulary({"b": 1, 'é"': 0, "<end>": 2}, special=(2,))


def test_the_documented_bytes_of_a_tiny_vocabulary() -> None:
    written = '[[[0,"é\\""],[1,"b"],[2,"<end>"]],[2]]'.encode()
    assert tokenizer_fingerprint(TINY) == hashlib.sha256(written).hexdigest()
    # Pinned: a change of it parts every trainer from every teacher that runs.
    pinned = "8dfa4af6149f7d2bf10c6d0fbfe5bfc056bfed7397b3ca7eda9333c3f0da57af"
    assert tokenizer_fingerprint(TINY) == pinned


def test_the_order_of_tokens_does_not_count() -> None:
    turned = Vocabulary(dict(reversed(TINY.tokens.items())), special=(2,))
    assert tokenizer_fingerprint(turned) == tokenizer_fingerprint(TINY)
    two = [Vocabulary({"a": 0, "b": 1}, special=order) for order in ((0, 1), (1, 0))]
    assert tokenizer_fingerprint(two[0]) == tokenizer_fingerprint(two[1])


def test_bookkeeping_of_tokens_that_are_not_special_does_not_count() -> None:
    assert tokenizer_fingerprint(replace(TINY, added=(1,))) == tokenizer_fingerprint(TINY)


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary({"b": 0, 'é"': 1, "<end>": 2}, special=(2,)),
        Vocabulary({"b": 1, 'é"': 0, "<END>": 2}, special=(2,)),
        Vocabulary({"b": 1, 'é"': 0, "<end>": 2, "c": 3}, special=(2,)),
        Vocabulary({"b": 1, 'é"': 0, "<end>": 2}),
        Vocabulary({"b": 1, 'é"': 0, "<end>": 2}, special=(1, 2)),
    ],
    ids=["ids swapped", "spelling", "one more", "not special", "one more special"],
)
def test_what_gives_ids_their_meaning_counts(other: Vocabulary) -> None:
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(TINY)


def test_a_lone_surrogate_is_no_obstacle() -> None:
    assert len(tokenizer_fingerprint(Vocabulary({"\ud800": 0}))) == 64


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_the_documented_bytes_of_a_prompt_and_its_echo() -> None:
    images = (b"one", b"two")
    written = b"vgs.prompt.1" + struct.pack("<IiiiIiI", 3, 5, 6, -1, 1, 7, 2)
    written += b"".join(hashlib.sha256(image).digest() for image in images)
    prompt = Prompt(ids(5, 6, -1), ids(7), images)
    assert prompt.digest == hashlib.sha256(written).digest()
    spoken = b"vgs.echo.1" + prompt.digest + struct.pack("<Iii", 2, 8, 9)
    assert echo(prompt.digest, ids(8, 9)) == hashlib.sha256(spoken).digest()[:16]
    assert echo(prompt.digest, [8, 9]) == echo(prompt.digest, ids(8, 9))


def test_hints_and_fingerprints_are_no_part_of_a_prompt() -> None:
    prompt = Prompt(ids(1), ids(2), (b"x",))
    assert replace(prompt, expected_responses=4, tokenizer_fingerprint="f").digest == prompt.digest


def test_the_echo_changes_with_every_id_and_every_image_byte() -> None:
    mm, text, response, image = [1, 2, 3], [4, 5], [6, 7, 8], b"picture"

    def of(mm: list[int], text: list[int], image: bytes, response: list[int]) -> bytes:
        digest = prompt_digest(ids(*mm), ids(*text), [image_digest(image)])
        return echo(digest, ids(*response))

    def changed(values: list[int]) -> list[list[int]]:
        return [[v + (i == at) for i, v in enumerate(values)] for at in range(len(values))]

    seen = [of(mm, text, image, response)]
    seen += [of(one, text, image, response) for one in changed(mm)]
    seen += [of(mm, one, image, response) for one in changed(text)]
    seen += [of(mm, text, image, one) for one in changed(response)]
    flipped = [bytes(b ^ (i == at) for i, b in enumerate(image)) for at in range(len(image))]
    seen += [of(mm, text, one, response) for one in flipped]
    # The same ids, parted elsewhere; and lengths.
    seen += [of(mm[:2], [3, *text], image, response), of(mm, text, image, response[:2])]
    seen += [of(mm, text, b"", response), echo(prompt_digest(ids(*mm), ids(*text), []), response)]
    assert len(set(seen)) == len(seen)
    assert {len(one) for one in seen} == {16}


def test_images_count_in_their_order() -> None:
    one = Prompt(ids(1, 1), ids(2), (b"a", b"b"))
    assert one.digest != Prompt(ids(1, 1), ids(2), (b"b", b"a")).digest
