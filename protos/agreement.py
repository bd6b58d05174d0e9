"""Who may work together: two servers as one teacher, whose scores may be mixed; a student with a teacher."""

from __future__ import annotations

import logging
from dataclasses import fields

from protos.errors import ErrorDetail, PreconditionFailed
from protos.teacher_info import TeacherInfo

log = logging.getLogger(__name__)

MAY_DIFFER = frozenset({"engine", "versions", "limits", "capabilities"})
"""A rolling update goes through two versions, and both engines give the same scores within float32's noise."""


def difference(reference: TeacherInfo, other: TeacherInfo) -> str | None:
    """The first field in which `other` is another teacher, with both values; None where they agree."""
    for field in fields(TeacherInfo):
        if field.name in MAY_DIFFER:
            continue
        expected, found = getattr(reference, field.name), getattr(other, field.name)
        if expected != found:
            return f"{field.name} is {_short(found)}, the others' is {_short(expected)}"
    missing = set(reference.capabilities) - set(other.capabilities)
    if missing:
        return f"capabilities lack {', '.join(sorted(missing))}"
    return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def check_fingerprints(info: TeacherInfo, tokenizer: str, processor: str, address: str) -> None:
    """Compare a student's own fingerprints, hex, with its teacher's; an empty one is not compared.

    Raises PreconditionFailed for another tokenizer; another image processor is a warning.
    """
    if tokenizer not in ("", info.tokenizer_fingerprint):
        raise PreconditionFailed(
            f"teacher {info.model_id!r} at {address} has another tokenizer than the student "
            f"({info.tokenizer_fingerprint[:12]} against {tokenizer[:12]}): its ids mean other tokens; use a teacher "
            "and a student of one family",
            ErrorDetail("tokenizer_fingerprint", tokenizer, info.tokenizer_fingerprint),
        )
    if processor not in ("", info.processor_fingerprint):
        log.warning(
            "teacher %r preprocesses images otherwise than the student does (%s against %s): the two may see a "
            "picture at different sizes",
            info.model_id,
            info.processor_fingerprint[:12],
            processor[:12],
        )
