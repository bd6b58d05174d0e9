"""How a rendered prompt becomes ids. Both sides must agree on it, so it stands with the contract."""

from __future__ import annotations

from typing import Any, Protocol

from protos.arrays import Ids, as_ids


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is needed."""

    bos_token_id: int | None

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any:
        """With `input_ids`."""
        ...


def prompt_ids(tokenizer: Tokenizer, text: str) -> Ids:
    """Ids of a rendered chat template, i32 [P].

    Templates write a model's special tokens, so none is added; but for the one that begins every text, where the
    tokenizer writes one and the template does not.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    first = beginning(tokenizer)
    return as_ids(ids if ids[: len(first)] == first else [*first, *ids])


def beginning(tokenizer: Tokenizer) -> list[int]:
    """The id that the tokenizer begins every text with, or nothing."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return []
    empty: list[int] = tokenizer("", add_special_tokens=True).input_ids
    return [bos] if empty[:1] == [bos] else []
