"""The name under which a response's scores are kept: everything that determines them, hashed."""

from __future__ import annotations

import hashlib
import struct

from protos.arrays import Ids, as_ids
from protos.item import Candidates, ScoreItem
from protos.prompt import AnyPrompt, ChatPrompt
from protos.teacher_info import TeacherInfo

DOMAIN = "vgs.score.3"
"""Raise the number when servers come to answer the same request otherwise: old scores are then asked for again."""


def score_key(info: TeacherInfo, prompt: AnyPrompt, item: ScoreItem) -> bytes:
    """Sha256 (32 bytes) over what determines the scores of `item` after `prompt` by the teacher `info`.

    The bytes: each part as a u64 length and the part, in a fixed order; text is UTF-8, numbers are i64, ids i32, all
    little-endian. Deadline, priority and the hint `expected_responses` do not enter.

    Raises ValueError where the teacher has no model fingerprint, or an id does not fit 32 bits.
    """
    if not info.model_fingerprint:
        raise ValueError(
            f"the teacher {info.teacher_id!r} publishes an empty model_fingerprint, so its scores can't be told from "
            "another's; serve it with one, or turn the score cache off"
        )
    parts = (
        *(DOMAIN, prompt.text_context, item.mode),
        *_teacher_parts(info),
        # Both contexts' ids, or the messages, and every image's sha256.
        prompt.digest,
        # It determines no score, but a teacher refuses a foreign one: a kept score must not answer in its place.
        "" if isinstance(prompt, ChatPrompt) else prompt.tokenizer_fingerprint,
        # How the teacher makes ids of what comes as text.
        info.text_fingerprint if isinstance(prompt, ChatPrompt) or item.text is not None else "",
        *_response_parts(item),
        *_candidate_parts(item.candidates),
        *(item.k, item.dtype, item.vocab_size, int(item.token_texts)),
    )
    state = hashlib.sha256()
    for part in map(_to_bytes, parts):
        state.update(struct.pack("<Q", len(part)) + part)
    return state.digest()


def _teacher_parts(info: TeacherInfo) -> tuple[str | int, ...]:
    """What of a teacher determines its scores.

    The model fingerprint is of the checkpoint's files alone, so the dtype that the weights are served in counts beside
    it. Engines agree within float32's noise, as batches do, and replicas may differ in them: an engine counts only
    where the teacher is deterministic and promises bits, for which no other teacher's scores can stand in.

    Names, limits, special ids and the length of the context only say where to ask and what is refused. Versions and
    hardware move last bits, as batching does, and are left out: an upgrade does not throw a data set's scores away.
    """
    return (
        *(info.model_fingerprint, info.tokenizer_fingerprint, info.processor_fingerprint),
        *(info.vocab_size, info.dtype, int(info.deterministic)),
        info.engine if info.deterministic else "",
    )


def _response_parts(item: ScoreItem) -> tuple[str | bytes, ...]:
    """In which form the response is given, the response and its mask."""
    mask = b"" if item.response_mask is None else item.response_mask.tobytes()
    if item.response_text is not None:
        return "text", item.response_text, mask
    if item.response_turns is not None:
        return "turns", item.response_turns, mask
    return "ids", _ids(item.response_ids), mask


def _candidate_parts(candidates: Candidates | None) -> tuple[bytes, bytes]:
    """Splits and ids; even empty candidates have a split, so two empty parts mean none."""
    if candidates is None:
        return b"", b""
    return _ids(candidates.splits), _ids(candidates.ids)


def _ids(ids: Ids) -> bytes:
    return as_ids(ids).astype("<i4").tobytes()


def _to_bytes(part: str | int | bytes) -> bytes:
    if isinstance(part, bytes):
        return part
    return part.encode() if isinstance(part, str) else struct.pack("<q", part)
