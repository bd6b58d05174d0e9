"""A row that can't be scored: reported with its number, while the run goes on."""

from __future__ import annotations

from typing import Any


class BadRow(ValueError):
    """`code` is a word to count by, the message says what was wrong and how to mend it."""

    def __init__(self, code: str, message: str) -> None:
        # A row's own words may hold halves of surrogate pairs, which no terminal and no file takes.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())
        self.code = code


UNREADABLE_ROW = "unreadable_row"
"""The data hold something that is no row there."""
MISSING_COLUMN = "missing_column"
"""The row lacks what others have."""
BAD_MESSAGES = "bad_messages"
"""Not a list of turns."""
NO_IMAGE = "no_image"
"""There is nothing to depend on."""
IMAGE_COUNT = "image_count"
"""Images and the places for them differ in number."""
UNREADABLE_IMAGE = "unreadable_image"
"""No file where the path points, or not an image's value."""
REMOTE_IMAGE = "remote_image"
"""A URL: nothing is downloaded."""
EMPTY_RESPONSE = "empty_response"
"""Nothing to score."""
SHOWN = 100
"""Characters of a value in a message."""


def shown(value: Any) -> str:
    """A text as it stands, anything else with its type, cut where it is long."""
    try:
        text = value if isinstance(value, str) else f"{type(value).__name__} {value!r}"
    except (ValueError, RecursionError) as error:  # thousands of digits, lists in lists
        text = f"{type(value).__name__}: {error}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
