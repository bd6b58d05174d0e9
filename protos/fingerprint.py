"""Hashes that both sides compute alone and compare: the tokenizer's fingerprint and the echo."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from protos.arrays import Ids


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that its fingerprint is made of."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """Added tokens by id; each has a `special` flag."""
        ...

    def get_vocab(self) -> Mapping[str, int]:
        """Token -> id, added tokens included."""
        ...


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Sha256 (hex) over what gives ids their meaning.

    The bytes are the UTF-8 JSON, without blanks and with non-ASCII characters as they are, of
    `[[[id, token], ... by id], [special id, ... ascending]]`. Token order in files, added-token
    bookkeeping and attribute names differ between transformers versions; this doesn't.
    """
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    special = sorted(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    text = json.dumps([vocabulary, special], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Processor(Protocol):
    """The part of a Hugging Face processor that its fingerprint is made of."""

    image_processor: Any


def processor_fingerprint(processor: Processor) -> str:
    """Sha256 (hex) over the image processor's settings, without the names of classes and versions."""
    settings: dict[str, Any] = processor.image_processor.to_dict()
    names = {"image_processor_type", "processor_class", "_processor_class", "transformers_version"}
    kept = {name: value for name, value in settings.items() if name not in names}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def image_digest(image: bytes) -> bytes:
    """Sha256 of an image's encoded bytes."""
    return hashlib.sha256(image).digest()


def prompt_digest(mm_ids: Ids, text_ids: Ids, image_digests: Iterable[bytes]) -> bytes:
    """Sha256 over everything that determines a prompt's two contexts.

    The bytes: `vgs.prompt.1`, then for mm_ids and text_ids each a u32 count and the ids as i32, then a
    u32 count of images and each image's sha256; all little-endian.
    """
    digests = list(image_digests)
    state = hashlib.sha256(b"vgs.prompt.1")
    for ids in (mm_ids, text_ids):
        state.update(_counted(ids))
    state.update(struct.pack("<I", len(digests)) + b"".join(digests))
    return state.digest()


def chat_digest(messages: str, text_context: str, image_digests: Iterable[bytes]) -> bytes:
    """Sha256 over a prompt of messages.

    The bytes: `vgs.chat.1`, then for the messages and the name of the text context ("drop" or "grey") each a u32 count
    of bytes and the UTF-8, then a u32 count of images and each image's sha256; all little-endian.
    """
    digests = list(image_digests)
    state = hashlib.sha256(b"vgs.chat.1")
    for text in (messages.encode(), text_context.encode()):
        state.update(struct.pack("<I", len(text)) + text)
    state.update(struct.pack("<I", len(digests)) + b"".join(digests))
    return state.digest()


def echo(prompt: bytes, response_ids: Ids | Sequence[int]) -> bytes:
    """First 16 bytes of sha256 over `vgs.echo.1`, the prompt's digest and the counted response ids.

    The server sends it with the scores, computed from what it scored; the client compares it with its own. Where the
    client sent ids they are all of the response's, masked or not; where it sent text, those that were scored.
    """
    state = hashlib.sha256(b"vgs.echo.1" + prompt)
    state.update(_counted(np.asarray(response_ids)))
    return state.digest()[:16]


def _counted(ids: Ids) -> bytes:
    return np.array([len(ids)], dtype="<u4").tobytes() + np.asarray(ids).astype("<i4").tobytes()
