"""Which column is what: a row of the data -> a sample, or what is wrong with the row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from teacher_server.scoring.bad_row import (
    BAD_MESSAGES,
    EMPTY_RESPONSE,
    IMAGE_COUNT,
    MISSING_COLUMN,
    NO_IMAGE,
    UNREADABLE_ROW,
    BadRow,
    shown,
)
from teacher_server.scoring.dialogue import (
    Dialogue,
    image_parts,
    read_dialogue,
    text_of,
    with_images_first,
)
from teacher_server.scoring.image_file import ImageFile, image_files
from teacher_server.scoring.image_folder import ImageFolder
from teacher_server.scoring.sample import Message, Sample


@dataclass(frozen=True)
class ColumnMapping:
    """Names of columns, and what is the same for all rows."""

    image_column: str = "image"
    question_column: str = "question"
    response_column: str | None = None
    """None: "response", or where there are messages the assistant's turns of these."""
    messages_column: str | None = None
    """Instead of the question."""
    id_column: str | None = None
    """None: the row's number."""
    image_marker: str | None = None
    """Inside the question or a text of the messages it is an image; None: no text is."""
    system_prompt: str | None = None
    """For rows whose messages do not begin with one of their own."""
    after_images: str = "\n"
    """Between images that are put before a plain text, and this text; as the trainer's `data.after_images`."""

    def to_json(self) -> dict[str, str | None]:
        """As the manifest keeps it, with the columns that are in use."""
        used = asdict(self) | {"response_column": self.used_response_column}
        return used | ({"question_column": None} if self.messages_column else {})

    @classmethod
    def from_json(cls, kept: Mapping[str, str | None]) -> ColumnMapping:
        """The same back."""
        return cls(**{name: value for name, value in kept.items() if value is not None})

    @property
    def used_response_column(self) -> str | None:
        """None: the assistant's turns are the response."""
        return self.response_column or (None if self.messages_column else "response")

    @property
    def columns(self) -> list[str]:
        """All that are read, where the data have them."""
        question = None if self.messages_column else self.question_column
        named = (self.id_column, self.image_column, question, self.messages_column)
        return [name for name in (*named, self.used_response_column) if name]

    def check(self, columns: Collection[str], data: str) -> None:
        """Raises ValueError where the data lack a column, with the flag that names another."""
        for flag, name in (
            ("question-column", None if self.messages_column else self.question_column),
            ("messages-column", self.messages_column),
            ("response-column", self.used_response_column),
            ("id-column", self.id_column),
            # Messages may bring their images along.
            ("image-column", None if self.messages_column else self.image_column),
        ):
            if name and name not in columns:
                hint = " (or --messages-column)" if flag == "question-column" else ""
                raise ValueError(
                    f"{data} has no column {name!r}; it has {', '.join(columns)}: say --{flag}{hint}"
                )

    def id_of(self, row: int, values: Mapping[str, Any]) -> str:
        """The row's own id, or its number where it has none. Raises BadRow where it can't be written down."""
        value = values.get(self.id_column) if self.id_column else None
        try:
            text = str(row) if value is None else str(value)
        except (ValueError, RecursionError) as error:
            raise BadRow(
                UNREADABLE_ROW, f"the id {self.id_column!r} is {shown(value)}; give a text"
            ) from error
        # Halves of surrogate pairs can be neither printed nor written.
        return text.encode("utf-8", "replace").decode()

    def sample(self, row: int, values: Mapping[str, Any], folder: ImageFolder) -> Sample:
        """Row number `row` of data in `folder`. Raises BadRow."""
        id = self.id_of(row, values)
        images = image_files(values.get(self.image_column), folder)
        dialogue = self._dialogue(values, folder)
        messages, response, turns = self._split(dialogue.turns, values)
        messages, images = self._place_images(messages, turns, dialogue.images, images)
        sample = Sample(row, id, tuple(messages), tuple(images), response, tuple(turns))
        try:
            "".join((sample.messages_json, response or sample.turns_json or "")).encode()
        except UnicodeEncodeError as error:
            raise BadRow(UNREADABLE_ROW, f"a text of the row is not Unicode: {error}") from error
        return sample

    def _dialogue(self, values: Mapping[str, Any], folder: ImageFolder) -> Dialogue:
        if self.messages_column:
            value = self._value(values, self.messages_column)
            dialogue = read_dialogue(value, folder, self.image_marker)
        else:
            question = self._value(values, self.question_column)
            if not isinstance(question, str):
                raise BadRow(
                    BAD_MESSAGES,
                    f"{self.question_column!r} is a {type(question).__name__}; give a text",
                )
            turns = [{"role": "user", "content": question}]
            dialogue = read_dialogue(turns, folder, self.image_marker)
        if self.system_prompt is not None and dialogue.turns[0]["role"] != "system":
            dialogue.turns.insert(0, {"role": "system", "content": self.system_prompt})
        return dialogue

    def _split(
        self, dialogue: list[Message], values: Mapping[str, Any]
    ) -> tuple[list[Message], str | None, list[Message]]:
        """Messages; the response to them, or the turns from the first response to the last."""
        if column := self.used_response_column:
            return dialogue, _response(values.get(column), f"the response {column!r}"), []
        roles = [turn["role"] for turn in dialogue]
        if roles[-1] != "assistant":
            raise BadRow(
                EMPTY_RESPONSE,
                f"the messages end with a turn of the {roles[-1]}'s, and there is nothing to score",
            )
        first = roles.index("assistant")
        messages, turns = dialogue[:first], dialogue[first:]
        if "user" not in roles[:first]:
            raise BadRow(BAD_MESSAGES, "the assistant speaks before the user")
        if len(turns) == 1:
            return messages, _response(text_of(turns[0]), "the assistant's turn"), []
        said = "".join(text_of(turn) for turn in turns if turn["role"] == "assistant")
        _response(said, "every turn of the assistant's")
        return messages, None, turns

    def _place_images(
        self,
        messages: list[Message],
        turns: Sequence[Message],
        inline: Sequence[ImageFile | None],
        column: Sequence[ImageFile],
    ) -> tuple[list[Message], list[ImageFile]]:
        """The row's images in the places that the messages have for them, or else before the first question."""
        if image_parts(turns):
            raise BadRow(
                IMAGE_COUNT,
                "an image comes after the first response; make each response after it a row of its own, with all that "
                "stands before as its messages",
            )
        if not inline and not column:
            raise BadRow(NO_IMAGE, "the row has no image, so that nothing can depend on one")
        if not inline:
            return with_images_first(messages, len(column), self.after_images), list(column)
        places = inline.count(None)
        if places != len(column):
            raise BadRow(
                IMAGE_COUNT if column else NO_IMAGE,
                f"the messages have {places} places for {len(column)} images of the image column",
            )
        rest = iter(column)
        return messages, [next(rest) if image is None else image for image in inline]

    def _value(self, values: Mapping[str, Any], column: str) -> Any:
        value = values.get(column)
        if value is None:
            raise BadRow(MISSING_COLUMN, f"the row has no {column!r}")
        return value


def _response(value: Any, what: str) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(EMPTY_RESPONSE, f"{what} is {'missing' if value is None else 'empty'}")
    if isinstance(value, str | int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError as error:  # it has too many digits to be written
            raise BadRow(EMPTY_RESPONSE, f"{what} is {shown(value)}; give a text") from error
    raise BadRow(EMPTY_RESPONSE, f"{what} is a {type(value).__name__}; give a text")
