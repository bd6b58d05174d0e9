"""What a run would do, shown: which column is what, and the first rows as the teacher would see them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator

from PIL import Image

from protos.errors import TeacherError
from protos.teacher_info import TeacherInfo
from teacher_server.scoring.background import on_shared_loop
from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.config import ScoreConfig
from teacher_server.scoring.image_file import ImageFile
from teacher_server.scoring.image_folder import ImageFolder
from teacher_server.scoring.sample import Message, Sample
from teacher_server.scoring.scoring_run import check_abilities, client_of, mapping_of
from teacher_server.scoring.source import open_source

ROWS = 3
SHOWN = 300
"""Characters of a text."""
PATIENCE_S = 3.0
"""For a teacher that need not be there."""


def show(config: ScoreConfig, say: Callable[[str], None] = print) -> bool:
    """Print it; returns whether all the rows shown can be asked about. Raises ValueError where a column is missing."""
    source = open_source(config.data, config.split, config.revision, config.subset)
    mapping = mapping_of(config)
    say("data      " + ", ".join(f"{k} {v}" for k, v in source.identity.items() if v is not None))
    say(f"rows      {_about(source.expected_rows(), config.limit)}")
    say(f"columns   {', '.join(source.columns)}")
    mapping.check(source.columns, config.data)
    for line in _mapped(mapping):
        say(line)
    say(f"context   {config.text_context}")
    say(f"teacher   {_teacher(config)}")
    well = True
    images = ImageFolder(source.folder, config.allow_paths_outside)
    rows = source.rows(columns=mapping.columns)
    for number, values in itertools.islice(rows, min(ROWS, config.limit or ROWS)):
        try:
            if isinstance(values, BadRow):
                raise values
            sample = mapping.sample(number, values, images)
            say(f"\nrow {number} (id {sample.id})")
            for line in _rendered(sample):
                say(line)
        except BadRow as error:
            well = False
            say(f"\nrow {number}: {error.code}: {error}")
    return well


def _about(rows: int | None, limit: int | None) -> str:
    seems = "of unknown number" if rows is None else f"about {rows}"
    return seems if limit is None else f"{seems}, the first {limit} are scored"


def _mapped(mapping: ColumnMapping) -> list[str]:
    names = ("id", "image", "question", "messages", "response")
    columns = mapping.to_json()
    lines = [f"{name:<9} <- {columns[f'{name}_column']}" for name in names]
    return [line for line in lines if not line.endswith("None")]


def _teacher(config: ScoreConfig) -> str:
    """Who is there, and whether it can do what is asked. Nothing is scored."""
    patient = config.model_copy(update={"connect_timeout_s": PATIENCE_S})

    async def describe() -> TeacherInfo:
        async with client_of(patient) as client:
            return client.info

    try:
        info = on_shared_loop(describe())
        check_abilities(info, config)
    except TeacherError as error:
        return f"{config.teacher}: {error}"
    return f"{config.teacher}: {info.teacher_id!r}, {info.model_id}, {info.engine} engine"


def _rendered(sample: Sample) -> list[str]:
    images = iter(sample.images)
    lines = [f"  {m['role']:<10} {_content(m, images)}" for m in sample.messages]
    if sample.response is not None:
        return [*lines, f"  response   {_text(sample.response)}"]
    turns = (("response" if m["role"] == "assistant" else m["role"], m) for m in sample.turns)
    return lines + [f"  {name:<10} {_content(m, images)}" for name, m in turns]


def _content(message: Message, images: Iterator[ImageFile]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return _text(content)
    parts = (
        _text(p["text"]) if p["type"] == "text" else f"[{_size(next(images))}]" for p in content
    )
    return " ".join(parts)


def _text(text: str) -> str:
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"{shown!r} ({len(text)} characters)"


def _size(image: ImageFile) -> str:
    data = image.read()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return f"{picture.width} x {picture.height} {picture.format}, {len(data)} bytes"
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{len(data)} bytes that can't be decoded: {error}"
