"""Whether two servers are the same teacher: their scores may be mixed in one batch, and a retry may go to either."""

from __future__ import annotations

from dataclasses import fields

from protos.teacher_info import TeacherInfo

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
