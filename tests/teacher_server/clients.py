"""A clients file for tests, and those who are in it."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protos.arrays import as_ids
from protos.credentials import Credentials
from protos.item import ScoreItem
from protos.prompt import Prompt
from teacher_server.client_file import new_token

PROMPT = Prompt(mm_ids=as_ids([40, 41, 42]), text_ids=as_ids([40, 41, 42]))
RELOAD_S = 3.0
"""Longest time from a change of the file to its effect."""


def item(length: int = 5) -> ScoreItem:
    return ScoreItem(as_ids([50] * length), k=3)


class Clients:
    """The file's content by client; `write` puts it in place as one."""

    def __init__(self, path: Path, *names: str) -> None:
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, str] = {}
        for name in names:
            self.add(name)
        self.write()

    def add(self, name: str, **settings: Any) -> str:
        """A client with a token of its own; returns the token."""
        self.tokens[name], digest = new_token()
        self.entries[name] = {"token_sha256": digest} | settings
        return self.tokens[name]

    def write(self) -> None:
        lines: list[str] = [] if self.entries else ["[clients]"]
        for name, entry in self.entries.items():
            lines.append(f"[clients.{json.dumps(name)}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
        self.write_text("\n".join(lines) + "\n")

    def write_text(self, text: str) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, self.path)

    def credentials(self, name: str) -> Credentials:
        return Credentials(self.tokens[name])


async def until(condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    """Wait for a condition that the server's thread brings about."""
    ends_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends_s, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.02)
