#!/usr/bin/env python3
"""Make a token for each named client that has none yet, then become the command:

with_tokens.py FOLDER NAME [NAME ...] -- COMMAND [ARGUMENT ...]

The folder then holds `clients.toml`, which is the server's, and a file with the token alone for each name. Whoever
mounts it can read every token in it: it is for one machine, whose services are one owner's.
"""

import json
import os
import sys
import tomllib
from pathlib import Path

from teacher_server.client_file import new_token

CLIENTS = "clients.toml"


def make_tokens(folder: Path, names: list[str]) -> list[str]:
    """Names that had no token; entries of others, their weights and quotas, stay as they are."""
    clients = folder / CLIENTS
    text = clients.read_text(encoding="utf-8") if clients.exists() else ""
    known = tomllib.loads(text).get("clients", {})
    made = [name for name in names if name not in known]
    for name in made:
        token, digest = new_token()
        _write(folder / name, token + "\n")
        text += f'[clients.{json.dumps(name)}]\ntoken_sha256 = "{digest}"\n\n'
    if made:
        _write(clients, text)
    return made


def _write(path: Path, text: str) -> None:
    """Whole or not at all; any user may read it, since those who mount the folder run as several."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.chmod(0o644)
    partial.replace(path)


def main() -> None:
    """Never returns."""
    folder, *rest = sys.argv[1:]
    names, command = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    for name in make_tokens(Path(folder), names):
        print(f"made a token for {name}", file=sys.stderr)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
