"""What a message costs a server before any model sees it, measured in a process of its own for each.

`python -m tests.fuzz.memory_probe` prints a line of JSON for each message: its name, bytes, outcome, the growth of
the resident memory at its peak, and the seconds on the processor.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from protos.teacher_info import Limits
from protos.v1 import teacher_pb2 as pb
from teacher_server.images import decode_images
from tests import nasty_pictures as nasty
from tests.fuzz.admission import admission
from tests.pictures import noise
from tests.raw_stream import ids_message, put_message, score_message
from tests.stand_in_engine import IMAGE

WIDE = 5600
"""Squared it is just within the limit of pixels."""


@dataclass(frozen=True)
class Cost:
    name: str
    came_bytes: int
    outcome: str
    peak_bytes: int
    cpu_s: float


def pictures(*files: bytes) -> pb.ClientMessage:
    return put_message(1, [IMAGE] * len(files), [40], files)


def ids(count: int) -> np.ndarray:
    return np.full(count, 40, dtype=np.int32)


def request(**changes: Any) -> pb.ClientMessage:
    return pb.ClientMessage(score=score_message(1, [40], **changes))


MESSAGES: dict[str, Callable[[], pb.ClientMessage]] = {
    "png-of-100-megapixels": lambda: pictures(nasty.flat((10_000, 10_000), mode="1")),
    "png-within-the-limit-of-pixels": lambda: pictures(nasty.flat((WIDE, WIDE), mode="1")),
    "png-within-the-limit-and-torn": lambda: pictures(nasty.flat((WIDE, WIDE))[:-4000]),
    "png-of-a-blank-screen": lambda: pictures(nasty.flat((3840, 2160), mode="RGBA")),
    "pngs-of-64-megapixels": lambda: pictures(*[nasty.flat((2000, 2000), mode="1")] * 16),
    "pngs-of-texts": lambda: pictures(*[nasty.png_of_texts(60)] * 16),
    "pngs-of-a-few-texts": lambda: pictures(*[nasty.png_of_texts(7)] * 16),
    "png-of-profiles": lambda: pictures(nasty.png_of_profiles(2000)),
    "png-of-overlapping-exif": lambda: pictures(
        nasty.png(before=nasty.chunk(b"eXIf", nasty.overlapping_exif(20_000, 60_000)[6:]))
    ),
    "jpeg-whose-header-lies": lambda: pictures(nasty.jpeg_with_size(WIDE, WIDE)),
    "jpeg-progressive-and-blank": lambda: pictures(
        nasty.flat((WIDE, WIDE), "JPEG", mode="L", progressive=True)
    ),
    "jpeg-of-scans": lambda: pictures(nasty.jpeg_of_scans(20_000, (2000, 2000))),
    "webp-of-a-huge-canvas": lambda: pictures(nasty.webp_with_canvas(60_000, 60_000)),
    "webp-within-the-limit-of-pixels": lambda: pictures(nasty.webp_with_canvas(WIDE, WIDE)),
    "webp-of-a-blank-screen": lambda: pictures(nasty.webp_with_canvas(3840, 2160)),
    "jpeg-of-noise": lambda: pictures(noise(0, (4000, 3000), "JPEG")),
    "junk-of-15-mebibytes": lambda: pictures(os.urandom(15 << 20)),
    "media-of-nothing": lambda: put_message(1, [40], media=[pb.Media()] * 300_000),
    "ids-of-a-prompt": lambda: put_message(1, ids(4_000_000)),
    "placeholders-of-a-prompt": lambda: put_message(1, np.full(1_000_000, IMAGE), [40]),
    "ids-of-a-response": lambda: request(response_ids=ids_message(ids(8_000_000))),
    "candidates": lambda: request(
        candidate_splits=ids_message([0, 8_000_000]), candidate_ids=ids_message(ids(8_000_000))
    ),
    "splits": lambda: request(
        candidate_splits=ids_message(ids(4_000_000)), candidate_ids=ids_message(ids(4))
    ),
    "dimensions": lambda: request(
        response_ids=pb.Array(dtype=pb.I32, shape=[2**32 - 1] * 1_000_000)
    ),
    "fingerprint": lambda: put_message(1, [40], tokenizer_fingerprint="f" * 30_000_000),
}


def main(names: Iterable[str]) -> None:
    """Measure the named messages, or all of them."""
    for form in (
        "PNG",
        "JPEG",
        "WEBP",
    ):  # what a format needs for itself is none of a message's cost
        decode_images((nasty.flat((64, 64), form, progressive=True),), Limits())
    for name in list(names) or MESSAGES:
        data = MESSAGES[name]().SerializeToString()
        reader, writer = os.pipe()
        if not (child := os.fork()):
            os.close(reader)
            line = json.dumps(asdict(measure(name, data)))
            os.write(writer, line.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            line = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{name} ended its process with status {status}")
        print(line, flush=True)


def measure(name: str, data: bytes) -> Cost:
    """The growth from what the process holds now, the message's own bytes among it."""
    with admission(Limits()) as admit:
        before, started_s = resident_bytes(), time.process_time()
        outcome = admit(data)
        cpu_s = time.process_time() - started_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Cost(name, len(data), outcome, max(0, peak - before), cpu_s)


def resident_bytes() -> int:
    """Of this process, now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1:])
