"""Writes the seeds of the corpus from the table of bad input: `python -m tests.fuzz.make_corpus`.

A file is the bytes of one ClientMessage and is named by its outcome. Seeds are named after their case; those that
fuzzing found, `found-...`, are left alone: `--found FOLDER` adds the most telling ones of a run.
"""

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from protos.prompt import Prompt
from protos.v1 import teacher_pb2 as pb
from tests.fuzz.admission import IGNORED, Admission, admission
from tests.nasty_pictures import flat
from tests.raw_stream import put_message
from tests.stand_in_engine import IMAGE, INFO, VIDEO
from tests.teacher_server.test_bad_input_table import BROKEN, CASES, World

CORPUS = Path(__file__).with_name("corpus")
MOST_BYTES = 6000
"""Of a seed: a corpus is small."""


def main() -> None:
    """Replace the seeds, and add what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--found", type=Path, help="folder with inputs of a fuzzing run")
    parser.add_argument("--most", type=int, default=40, help="how many of them to keep")
    arguments = parser.parse_args()
    CORPUS.mkdir(exist_ok=True)
    with admission() as admit:
        seeds = {name_of(admit, data, case): data for case, data in cases()}
        for path in CORPUS.iterdir():
            if "--found-" not in path.name:
                path.unlink()
        for name, data in seeds.items():
            (CORPUS / name).write_bytes(data)
        if arguments.found is not None:
            for data in most_telling(arguments.found, arguments.most):
                name = f"found-{hashlib.sha256(data).hexdigest()[:12]}"
                (CORPUS / name_of(admit, data, name)).write_bytes(data)
    print(f"{len(list(CORPUS.iterdir()))} files in {CORPUS}")


def cases() -> Iterable[tuple[str, bytes]]:
    """Each case's last message, which is the one that it is about, where it is small."""
    text = np.array([40, 41, 42], dtype=np.int32)
    good = Prompt(np.array([40, IMAGE, 41, 42], dtype=np.int32), text, (flat((32, 32)),))
    world = World(good, IMAGE, VIDEO, INFO.vocab_size)
    for case in CASES:
        *_, message = case.messages(world)
        data = message if isinstance(message, bytes) else pack(message)
        if len(data) <= MOST_BYTES:
            yield case.name, data
    yield (
        "larger-than-the-in-band-limit",
        pack(put_message(1, [40], processor_fingerprint="p" * 8000)),
    )
    for name, data in BROKEN.items():
        if len(data) <= MOST_BYTES:
            yield f"broken-{name}", data


def pack(message: pb.ClientMessage) -> bytes:
    """The same bytes on every run."""
    return message.SerializeToString(deterministic=True)


def name_of(admit: Admission, data: bytes, name: str) -> str:
    """`OUTCOME--name`"""
    return f"{admit(data)}--{name}"


def most_telling(folder: Path, most: int) -> list[bytes]:
    """Small inputs, evenly over the outcomes."""
    by_outcome: dict[str, list[bytes]] = {}
    with admission() as admit:
        for path in sorted(folder.iterdir(), key=lambda p: (p.stat().st_size, p.name)):
            data = path.read_bytes()
            if 0 < len(data) <= MOST_BYTES and (outcome := admit(data)) != IGNORED:
                by_outcome.setdefault(outcome, []).append(data)
    share = max(1, most // max(1, len(by_outcome)))
    return [data for found in by_outcome.values() for data in spread(found, share)]


def spread(found: list[bytes], count: int) -> list[bytes]:
    """`count` of them from the smallest to the largest."""
    step = max(1, len(found) // count)
    return found[::step][:count]


if __name__ == "__main__":
    main()
