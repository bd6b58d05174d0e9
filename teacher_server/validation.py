"""Every rule that a prompt or an item must keep, below all front ends. Nothing here touches a model."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from protos.arrays import Ids, Mask
from protos.errors import ErrorDetail, InvalidItem, LimitExceeded, PreconditionFailed, Unimplemented
from protos.item import Candidates, ScoreItem
from protos.prompt import Prompt
from protos.teacher_info import TeacherInfo


def check_item_bytes(size: int, info: TeacherInfo) -> None:
    """The in-band limit on one message, below gRPC's own."""
    limit = info.limits.max_item_bytes
    if size > limit:
        raise LimitExceeded(
            f"the item has {size} bytes, the limit is {limit}; send fewer or smaller images or candidates",
            ErrorDetail(field="item", value=str(size), limit=str(limit)),
        )


def check_image_count(images: int, info: TeacherInfo) -> None:
    """How many a prompt may have; cheap enough to be asked before any of them is looked at."""
    if images > info.limits.max_images:
        raise InvalidItem(
            f"the prompt has {images} images, the limit is {info.limits.max_images}",
            ErrorDetail(field="media", value=str(images), limit=str(info.limits.max_images)),
        )


def check_prompt(prompt: Prompt, info: TeacherInfo) -> None:
    """Fingerprint, ids, and one placeholder per image."""
    expected, special = info.tokenizer_fingerprint, info.special_ids
    if prompt.tokenizer_fingerprint and prompt.tokenizer_fingerprint != expected:
        raise PreconditionFailed(
            f"the client's tokenizer {prompt.tokenizer_fingerprint[:12]} is not the teacher's {expected[:12]}: its "
            "ids mean other tokens; use the teacher's tokenizer",
            ErrorDetail("tokenizer_fingerprint", prompt.tokenizer_fingerprint[:64], expected),
        )
    for field, ids in (("mm_ids", prompt.mm_ids), ("text_ids", prompt.text_ids)):
        _check_ids(field, ids, info.vocab_size)
    images = len(prompt.images)
    check_image_count(images, info)
    placeholders = int(np.count_nonzero(prompt.mm_ids == special.image_placeholder))
    if placeholders != images:
        raise InvalidItem(
            f"mm_ids has {placeholders} image placeholders (id {special.image_placeholder}) for {images} images; "
            "send exactly one per image, the teacher expands it",
            ErrorDetail(field="mm_ids", value=str(placeholders), limit=str(images)),
        )
    others = set(special.forbidden_in_response) - {special.image_placeholder}
    _refuse("mm_ids", prompt.mm_ids, others, "is written by the teacher itself, from the media")
    same = np.array_equal(prompt.mm_ids, prompt.text_ids)
    if not images and not same:
        raise InvalidItem(
            "a prompt without images has one context; send text_ids equal to mm_ids",
            ErrorDetail(field="text_ids"),
        )
    if prompt.text_context == "grey":
        if not same:
            raise InvalidItem(
                "grey images stand where the images do; send text_ids equal to mm_ids",
                ErrorDetail(field="text_ids"),
            )
        return
    _refuse(
        "text_ids",
        prompt.text_ids,
        special.forbidden_in_response,
        "has no place in a prompt without images",
    )


def check_expanded_length(mm_length: int, text_length: int, info: TeacherInfo) -> None:
    """A prompt of so many tokens, images expanded, leaves room for a response."""
    longest = max(mm_length, text_length)
    if longest >= info.context_length:
        raise InvalidItem(
            f"the prompt has {longest} tokens with its images, the teacher's context is {info.context_length}; send "
            "smaller images or a shorter text",
            ErrorDetail("mm_ids", str(longest), str(info.context_length)),
        )


def check_item(item: ScoreItem, mm_length: int, text_length: int, info: TeacherInfo) -> None:
    """k, ids, candidates and lengths of one response to a prompt of the given expanded lengths."""
    limits = info.limits
    _check_ids("response_ids", item.response_ids, info.vocab_size)
    _refuse(
        "response_ids",
        item.response_ids,
        info.special_ids.forbidden_in_response,
        "stands for an image; suppress it when sampling",
    )
    tokens = len(item.response_ids)
    if tokens > limits.max_response_tokens:
        raise InvalidItem(
            f"the response has {tokens} tokens, the limit is {limits.max_response_tokens}; it is never truncated",
            ErrorDetail("response_ids", str(tokens), str(limits.max_response_tokens)),
        )
    total = max(mm_length, text_length) + tokens
    if total > info.context_length:
        raise InvalidItem(
            f"prompt and response have {total} tokens, the teacher's context is {info.context_length}; it is never "
            "truncated, shorten the response or the image",
            ErrorDetail("response_ids", str(total), str(info.context_length)),
        )
    if item.response_mask is not None:
        _check_mask(item.response_mask, tokens)
    if item.mode == "topk":
        _check_support(item, info)
    elif item.k or item.candidates is not None:
        raise InvalidItem(
            f"mode {item.mode} has no support; send k 0 and no candidates, or ask for the mode topk",
            ErrorDetail("mode", item.mode, "topk"),
        )


def check_text_size(field: str, text: str, info: TeacherInfo) -> None:
    """Of what is to be rendered or tokenised, before it is."""
    size, limit = len(text.encode()), info.limits.max_text_bytes
    if size > limit:
        raise InvalidItem(
            f"{field} has {size} bytes, the limit is {limit}; shorten it, or send token ids",
            ErrorDetail(field, str(size), str(limit)),
        )


def check_text(item: ScoreItem, info: TeacherInfo) -> None:
    """Its size; and it comes without what counts tokens."""
    field = "response_text" if item.response_turns is None else "response_turns"
    check_text_size(field, item.text or "", info)
    for field, value in (("response_mask", item.response_mask), ("candidate_ids", item.candidates)):
        if value is not None:
            raise InvalidItem(
                f"{field} counts tokens, and the response is a text that only the teacher can count; send response_ids",
                ErrorDetail(field),
            )


def _check_mask(mask: Mask, tokens: int) -> None:
    if len(mask) != tokens:
        raise InvalidItem(
            f"response_mask has {len(mask)} entries for {tokens} tokens; send one for each",
            ErrorDetail("response_mask", str(len(mask)), str(tokens)),
        )
    if not mask.any():
        raise InvalidItem(
            "response_mask is 0 throughout; mark at least one token",
            ErrorDetail("response_mask", "0 tokens", ">= 1 token"),
        )


def _check_support(item: ScoreItem, info: TeacherInfo) -> None:
    limits = info.limits
    if not 1 <= item.k <= limits.max_k:
        raise InvalidItem(
            f"k is {item.k}, allowed are 1 to {limits.max_k}",
            ErrorDetail("k", str(item.k), str(limits.max_k)),
        )
    if item.candidates is not None:
        _check_candidates(item.candidates, len(item.response_ids), info)


def _check_candidates(candidates: Candidates, tokens: int, info: TeacherInfo) -> None:
    splits, ids, limit = candidates.splits, candidates.ids, info.limits.max_candidates
    lengths = np.diff(splits.astype(np.int64))  # a difference of two i32 may not fit one
    fits = len(splits) == tokens + 1 and splits[0] == 0 and splits[-1] == len(ids)
    if not fits or bool((lengths < 0).any()):
        raise InvalidItem(
            f"candidate_splits must rise from 0 to {len(ids)} (the candidates) in {tokens + 1} entries (tokens + 1)",
            ErrorDetail("candidate_splits", f"{len(splits)} entries", f"{tokens + 1} entries"),
        )
    widest = int(lengths.max(initial=0))
    if widest > limit:
        raise InvalidItem(
            f"a token has {widest} candidates, the limit is {limit}",
            ErrorDetail("candidate_ids", str(widest), str(limit)),
        )
    if len(ids):
        _check_ids("candidate_ids", ids, info.vocab_size)


def _check_ids(field: str, ids: Ids, vocab_size: int) -> None:
    if not len(ids):
        raise InvalidItem(
            f"{field} is empty; send at least one id", ErrorDetail(field, "0", ">= 1")
        )
    bad = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(bad):
        position, value = int(bad[0]), int(ids[bad[0]])
        raise InvalidItem(
            f"{field}[{position}] is {value}, ids run from 0 to {vocab_size - 1}; is this the teacher's tokenizer?",
            ErrorDetail(field, str(value), f"0 to {vocab_size - 1}"),
        )


def _refuse(field: str, ids: Ids, forbidden: Collection[int | None], why: str) -> None:
    bad = np.flatnonzero(np.isin(ids, [i for i in forbidden if i is not None]))
    if len(bad):
        position, value = int(bad[0]), int(ids[bad[0]])
        raise InvalidItem(
            f"{field}[{position}] is {value}, which {why}", ErrorDetail(field, str(value))
        )


def refuse_unsupported(word: str | None) -> None:
    """`word` names a part of the schema that a request uses and this server lacks; None: there is none."""
    if word is not None:
        raise Unimplemented(
            f"this teacher does not do {word!r}; Describe names what it does",
            ErrorDetail("capabilities", word),
        )
