"""The process that compares: a JSON pair [expected, answer] a line in, true or false a line out."""

from __future__ import annotations

import json
import logging
import resource
import sys

from math_verify import LatexExtractionConfig, parse, verify

CPU_S = 1
"""Seconds of processor time that a question may take, and up to one more, since the kernel counts whole ones. Nearly
all take milliseconds."""
MEMORY_BYTES = 2 << 30
"""Of address space."""

# Mathematics alone: the extraction of plain numbers takes the last one of "3 or 5", and so would any guess do.
CONFIG = (LatexExtractionConfig(boxed_match_priority=-1),)


def main() -> None:
    """Answer until the input ends; the kernel ends the process at a question beyond its limits."""
    logging.disable()
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    print("ready", flush=True)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + CPU_S)
        print(json.dumps(_equal(*json.loads(line))), flush=True)


def _equal(expected: str, answer: str) -> bool:
    gold, said = (
        parse(
            f"${text}$",
            extraction_config=CONFIG,
            fallback_mode="no_fallback",
            parsing_timeout=None,  # type: ignore[arg-type]  # None is what turns its signals off
        )
        for text in (expected, answer)
    )
    return bool(verify(gold, said, timeout_seconds=None))


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


if __name__ == "__main__":
    main()
