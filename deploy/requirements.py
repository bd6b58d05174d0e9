"""Print what extras of pyproject.toml need, one requirement a line, so that an image gets its dependencies before the
sources:

    python deploy/requirements.py student,wandb
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extra: str) -> Iterator[str]:
    """The extra's requirements, with the project's own extras replaced by what they hold."""
    own = re.compile(rf"{re.escape(project['name'])}\[(.+)\]")
    for line in project["optional-dependencies"][extra]:
        if match := own.fullmatch(line):
            for name in match[1].split(","):
                yield from requirements(project, name.strip())
        else:
            yield line


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = [extra.strip() for word in sys.argv[1:] for extra in word.split(",")]
    asked = [line for extra in extras for line in requirements(project, extra)]
    print(*dict.fromkeys([*project["dependencies"], *asked]), sep="\n")
