"""Held-out questions in the report: the picture, what was expected, what each student says."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from student_trainer.report_chart import colour

TINY = 96
"""Pixels: pictures that are no larger either way are enlarged, with their pixels kept sharp."""
PICTURE = 256
"""Pixels that an enlarged picture may measure."""
LONG = 600
"""Characters: of a longer response the beginning and the end are shown, the rest on request."""


@dataclass(frozen=True)
class AnswerExample:
    """One held-out question and what each student says to it."""

    images: tuple[bytes, ...]
    """Encoded PNG, JPEG, WebP or GIF files."""
    question: str
    expected: str
    responses: dict[str, str]
    """By student ("initial" or an objective): its whole greedy response."""
    correct: dict[str, bool]
    """By student; where one is missing, no mark is shown."""


def examples_html(examples: Sequence[AnswerExample], objectives: Sequence[str]) -> str:
    """Cards of the questions, "" without any; `objectives` gives each student its colour."""
    if not examples:
        return ""
    colours = {name: colour(i) for i, name in enumerate(objectives)}
    items = "\n".join(_example(example, colours) for example in examples)
    note = "Not a random sample: questions on which the students differ come first."
    return f'<p class="soft">{note}</p>\n<ol class="examples">\n{items}\n</ol>'


def _example(example: AnswerExample, colours: Mapping[str, str]) -> str:
    answers = "".join(
        f'<div class="{colours.get(name, "")}"><dt>{escape(name)}{_mark(example.correct.get(name))}'
        f"</dt><dd>{_said(response)}</dd></div>"
        for name, response in example.responses.items()
    )
    pictures = "".join(_picture(image) for image in example.images)
    pictures = f'<div class="pictures">{pictures}</div>' if pictures else ""
    return (
        f'<li class="{"seen" if pictures else "blind"}">{pictures}<div>'
        f'<h3 class="question">{escape(example.question)}</h3>'
        f'<p class="expected">Expected: <b>{escape(example.expected)}</b></p>'
        f'<dl class="answers">{answers}</dl></div></li>'
    )


def _mark(correct: bool | None) -> str:
    if correct is None:
        return ""
    kind, sign = ("right", "✓") if correct else ("wrong", "✗")
    return f' <span class="mark {kind}">{sign} {kind}</span>'


def _said(response: str) -> str:
    text = escape(response)
    if len(response) <= LONG:
        return f'<div class="said">{text or "(nothing)"}</div>'
    ends = f"{escape(response[: LONG // 3])} […] {escape(response[-LONG // 3 :])}"
    return f'<details class="said"><summary>{ends}</summary><div>{text}</div></details>'


def _picture(data: bytes) -> str:
    kinds = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
    kind = next((name for magic, name in kinds.items() if data.startswith(magic)), None)
    if kind is None:
        return '<p class="soft">A picture of an unknown format.</p>'
    size = ""
    if kind == "png" and len(data) >= 24:
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        if 0 < max(width, height) <= TINY:
            times = PICTURE // max(width, height)
            size = f' class="tiny" width="{times * width}" height="{times * height}"'
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img{size} alt="Picture that the question is about" src="{source}">'
