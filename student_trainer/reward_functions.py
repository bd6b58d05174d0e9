r"""What a response can be rewarded for. Any function of response and expected answer will do."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import cast

from student_trainer.answer import BOX, final_answer, is_correct

RewardFunction = Callable[[str, str], float]
"""(response, expected answer) -> reward, finite."""

_REASONED = re.compile(r"\s*<reason>(.*?)</reason>(.*)", re.DOTALL)


def answer_reward(response: str, expected: str) -> float:
    """1 if the final answer is right, by the judge of evaluation; else 0."""
    return float(is_correct(response, expected))


def format_reward(response: str, expected: str) -> float:
    r"""1 if the response has the form that the system prompt asks for, right or wrong; else 0.

    It begins with <reason>, holds each of the two tags once, with some text between them, and after </reason> there is
    one \boxed{}, closed and not empty. Other text may stand around that box, and boxes in the reasoning.
    """
    match = _REASONED.fullmatch(response)
    if match is None or response.count("<reason>") + response.count("</reason>") != 2:
        return 0.0
    reason, rest = match.groups()
    return float(bool(reason.strip()) and rest.count(BOX) == 1 and bool(final_answer(rest)))


BUILT_IN: dict[str, RewardFunction] = {"answer": answer_reward, "format": format_reward}


def load_reward(name: str) -> RewardFunction:
    """Of "answer", "format", or `package.module:function`; ValueError, with what failed, where there is no such one."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(
            f'reward {name!r} is not known; give "answer", "format", or your own as "package.module:function"'
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise ValueError(
            f"reward {name!r} can't be imported ({type(error).__name__}: {error}); install its package, or put its "
            "folder on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ValueError(
            f"reward {name!r} is a {type(found).__name__}; name a function of response and expected answer"
        )
    return cast(RewardFunction, found)
