"""The teacher server, but a prompt that was prepared once is not prepared again.

The same few thousand questions come with every run, and at the toy's size preparing them is a third of the work.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from protos.prompt import Prompt
from teacher_server.cli import main
from teacher_server.engines.engine import PreparedPrompt
from teacher_server.engines.transformers_engine import TransformersEngine

_prepare = TransformersEngine.prepare
_PREPARED: dict[tuple[bytes, str], PreparedPrompt] = {}
"""By the digest of a prompt's content, and by what it shows without the picture."""


def _remembered(
    self: TransformersEngine, prompt: Prompt, images: Sequence[Image.Image]
) -> PreparedPrompt:
    key = prompt.digest, prompt.text_context
    if key not in _PREPARED:
        _PREPARED[key] = _prepare(self, prompt, images)
    return replace(_PREPARED[key], expected_responses=prompt.expected_responses)


if __name__ == "__main__":
    TransformersEngine.prepare = _remembered
    sys.exit(main())
