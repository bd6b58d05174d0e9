"""Where paths in rows lead to: a row is somebody else's word, and names no file beside the data's own unasked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from teacher_server.scoring.bad_row import UNREADABLE_IMAGE, BadRow, shown

FLAG = "--allow-paths-outside"


@dataclass(frozen=True)
class ImageFolder:
    """The folder of the data, which paths are relative to."""

    path: Path | None
    """None: the data are in no folder here, and every path leads outside."""
    allow_outside: bool = False
    """Paths may lead to any file that this process can read."""

    def find(self, text: str, place: str = "") -> Path:
        """The path that a row means; whether there is a file is not looked at. Links inside the folder are followed.

        Raises BadRow where it leads outside and may not; `place` begins what it says.
        """
        if self.allow_outside:
            return (self.path or Path()) / text
        # Without its "..", which after a link would lead elsewhere than they seem to.
        path = Path(os.path.abspath((self.path or Path()) / text))
        if any(path.is_relative_to(root) for root in self._roots):
            return path
        whose = "no folder is the data's" if self.path is None else f"outside of {self.path}"
        raise BadRow(
            UNREADABLE_IMAGE,
            f"{place}the path {shown(text)} leads to a file of this machine, {whose}; say {FLAG} if these data may "
            "name any file",
        )

    @cached_property
    def _roots(self) -> tuple[Path, ...]:
        """As it is called, and as it is called without links."""
        return () if self.path is None else (Path(os.path.abspath(self.path)), self.path.resolve())
