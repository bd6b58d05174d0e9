r"""Final answers: what a response says in its last \boxed{}, and whether it is the expected one.

`is_correct` is the one judge, of evaluation and of rewards alike. A policy that is rewarded by it finds its gaps. What
math-verify would let pass and a reader would not is therefore settled here, before it is asked:

- Two numbers with a blank between, such as "4 7", are equal to that text alone; math-verify adds them.
- Where a number is expected, an answer still to be worked out ("4 + 7" for 11) or hedged ("5 \approx 6") is wrong.
- Words are compared as text; math-verify takes "dog" for a product of letters.
- An empty box is wrong, whatever was expected.
"""

from __future__ import annotations

import re
from fractions import Fraction

from student_trainer import math_equality

BOX = "\\boxed{"
MAX_CHARACTERS = 200
"""Longer answers and expectations are compared as text alone."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_FRACTION = re.compile(r"[+-]?(?:\d+\s*/\s*\d+|\\[dt]?frac\{\d+\}\{\d+\})")
# "B", "(b)", "B.", "b)", "B: something"; a small letter alone is a variable unless an option is expected.
_OPTION = re.compile(r"(?:\(([A-J])\)\s*|([A-J])[.):](?:\s+|$))(.*)|([A-J])", re.IGNORECASE)
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d)\\[,!](?=\d{3}(?!\d))")
_SPACE = re.compile(r"\\(?:quad|qquad)(?![a-zA-Z])|\\[ ,;:!]|~")
_MATHEMATICS = re.compile(r"\d|\\[a-zA-Z]|[=+*/^<>]")
# Nothing but blanks or braces between two numbers.
_LIST = re.compile(r"\d\s+\.?\d|[\d}]\s*\{|\}\s*\d")
_ARGUMENTS = re.compile(r"\\[a-zA-Z]+\s*(?:\{[^{}]*\}\s*)+|[\^_]\s*\{[^{}]*\}")
_SCIENTIFIC = re.compile(r"(?:\\times|\\cdot|\*)\s*10\s*(?=\^)")
_UNSETTLED = re.compile(
    r"(?<=[\d)}\]])\s*[-+*]|\\(?:times|cdot|div|pm|mp|approx|sim|simeq|neq?)(?![a-zA-Z])|[_!<>]"
)
_SIGNS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{MIDDLE DOT}": r"\cdot ",
        "\N{DIVISION SIGN}": r"\div ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{ALMOST EQUAL TO}": r"\approx ",
        "\N{DEGREE SIGN}": r"^\circ ",
        "\N{SQUARE ROOT}": r"\sqrt",
        "\N{GREEK SMALL LETTER PI}": r"\pi ",
    }
)


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
    """Whether the response's final answer is `expected`: as text, as the same option or as the same mathematics.

    Text is compared up to blanks, dollar signs, a text command around it, a full stop at its end, and, from two
    characters on, case. Where an option is expected, "B", "(b)" or "B. its text", its letter decides; its text is right
    too, where `expected` has it. Everything else is math-verify's: 0.5 is 1/2 and 50%, {1, 2} is {2, 1}, a unit on
    either side is dropped.
    """
    answer = final_answer(response)
    return answer is not None and _same(answer, _normalise(expected))


def _same(answer: str, expected: str) -> bool:
    if not answer or answer == expected:
        return bool(answer)
    answer, expected = _plain(answer), _plain(expected)
    if not answer or not expected:
        return False
    if answer == expected or (len(expected) > 1 and answer.casefold() == expected.casefold()):
        return True
    value, said = _value(expected), _value(answer)
    if value is not None and said is not None:
        return value == said
    option = _OPTION.fullmatch(expected)
    if option and (len(expected) > 1 or expected.isupper()):
        return _same_option(answer, option)
    if _is_number(expected) and _UNSETTLED.search(_SCIENTIFIC.sub("e", answer)):
        return False
    return _same_mathematics(answer, expected)


def _same_option(answer: str, option: re.Match[str]) -> bool:
    said = _OPTION.fullmatch(answer)
    if said:
        return _letter(said) == _letter(option)
    return bool(option[3]) and _same(answer, option[3])


def _letter(option: re.Match[str]) -> str:
    return (option[1] or option[2] or option[4]).upper()


def _same_mathematics(answer: str, expected: str) -> bool:
    for text in (answer, expected):
        if len(text) > MAX_CHARACTERS or _is_list(text):
            return False
        if not _MATHEMATICS.search(_TEXT.sub("", text)):
            return False
    return math_equality.equal(expected, answer)


def _value(text: str) -> Fraction | None:
    """What a whole number or a decimal is worth, exactly; None for anything else."""
    if len(text) > MAX_CHARACTERS or not _NUMBER.fullmatch(text):
        return None
    digits = text.replace(",", "")
    return Fraction(digits) if digits.strip("+-") else None


def _is_number(text: str) -> bool:
    number = text.removesuffix("%").removesuffix("\\").strip()
    return _value(number) is not None or _FRACTION.fullmatch(number) is not None


def _is_list(text: str) -> bool:
    """Whether two numbers stand side by side, outside the arguments of a command."""
    text, before = text.replace(r"\{", "(").replace(r"\}", ")"), ""
    while text != before:
        text, before = _ARGUMENTS.sub("f ", text), text
    return _LIST.search(text) is not None


def _plain(text: str) -> str:
    """`text` without what only sets it: dollar signs, spacing, a text command around it or around digits."""
    text = text.replace("\\$", "").replace("$", "").translate(_SIGNS)
    text = _SPACE.sub(" ", _THOUSANDS.sub("", text))
    whole = _TEXT.fullmatch(text.strip())
    if whole:
        text = whole[1]
    text = _TEXT.sub(lambda m: m[1] if any(c.isdigit() for c in m[1]) else m[0], text)
    return _normalise(text).removesuffix(".").rstrip()


def _normalise(text: str) -> str:
    return " ".join(text.split())
