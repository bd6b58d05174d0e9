r"""Final answers: what a response says in its last \boxed{}, and whether it is the expected one."""

from __future__ import annotations

BOX = "\\boxed{"


def final_answer(response: str) -> str | None:
    r"""Content of the last \boxed{...}, braces balanced, blanks normalised; None without one."""
    start = response.rfind(BOX)
    if start < 0:
        return None
    depth = 1
    begin = start + len(BOX)
    for end in range(begin, len(response)):
        depth += {"{": 1, "}": -1}.get(response[end], 0)
        if depth == 0:
            return _normalise(response[begin:end])
    return None


def is_correct(response: str, expected: str) -> bool:
    """Whether the response's final answer equals `expected` up to blanks."""
    return final_answer(response) == _normalise(expected)


def _normalise(text: str) -> str:
    return " ".join(text.split())
