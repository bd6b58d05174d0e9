"""Coverage-guided fuzzing of request decoding and validation: `python -m tests.fuzz.fuzz_requests --seconds 60`.

Needs atheris. Prints how many messages were tried; a message that breaks a rule, takes longer than TIMEOUT_S or more
than MEMORY_MIB stands in `crash-...` in the folder of the findings, and the exit code is not 0. Replay one with
`python -m tests.fuzz.fuzz_requests --replay FILE`.
"""

import argparse
import importlib.util
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).with_name("corpus")
TIMEOUT_S, MEMORY_MIB, MOST_BYTES = 10, 2048, 9000


def main() -> int:
    """Fuzz in a process of its own: libFuzzer ends the one that it runs in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument(
        "--findings",
        type=Path,
        default=Path("runs/fuzz"),
        help="inputs with new coverage, and crashes",
    )
    parser.add_argument("--replay", type=Path, help="one input, or a folder of them")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replay is not None:
        return replay(arguments.replay)
    if importlib.util.find_spec("atheris") is None:
        parser.error(
            "fuzzing needs atheris, which is built for Linux on x86_64; --replay works without it"
        )
    if arguments.inside:
        return fuzz(arguments)
    arguments.findings.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.fuzz.fuzz_requests", "--inside", *sys.argv[1:]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        tried = 0
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if found := re.match(r"(?:Done |#)(\d+)", line):
                tried = int(found[1])
    print(f"fuzz_executions={tried} exit_code={process.returncode}")
    return process.returncode


def replay(path: Path) -> int:
    """Tell the outcome of each input."""
    from tests.fuzz.admission import admission

    with admission() as admit:
        for each in sorted(path.iterdir()) if path.is_dir() else [path]:
            print(admit(each.read_bytes()), each)
    return 0


def fuzz(arguments: argparse.Namespace) -> int:
    """Until the time is over or something breaks; does not return."""
    import atheris

    packages = ["protos", "teacher_server", "PIL"]
    with atheris.instrument_imports(include=packages):  # pyright: ignore[reportAttributeAccessIssue]
        from tests.fuzz.admission import Admission
    admit = Admission()

    def try_one(data: bytes) -> None:
        admit(data)

    # Looked up anew each time: Fuzz() puts another function in its place.
    mutate = field_mutator(lambda data, size: atheris.Mutate(data, size))
    flags = [
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={arguments.findings}/crash-",
        "-print_final_stats=1",
    ]
    found = arguments.findings / "corpus"
    found.mkdir(exist_ok=True)
    atheris.Setup([sys.argv[0], *flags, str(found), str(CORPUS)], try_one, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def field_mutator(
    mutate_bytes: Callable[[bytes, int], bytes],
) -> Callable[[bytes, int, int], bytes]:
    """Half of the time changes one field of the message, which bytes alone seldom do without breaking it."""
    from google.protobuf.message import DecodeError

    from protos.v1 import teacher_pb2 as pb

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            return mutate_bytes(data, max_size)
        try:
            message = pb.ClientMessage.FromString(data)
        except DecodeError:
            return mutate_bytes(data, max_size)
        change_field(message, chance, mutate_bytes)
        changed = message.SerializeToString()
        return changed if len(changed) <= max_size else mutate_bytes(data, max_size)

    return mutator


NUMBERS = [0, 1, 2, 3, 4, 5, 6, 8, 64, 65, 199, 200, 400, 511, 512, 2**31 - 1, 2**31, 2**32 - 1]


def change_field(
    message: Any, chance: random.Random, mutate: Callable[[bytes, int], bytes]
) -> None:
    """One of the message's own fields, or deeper down."""
    present = message.ListFields()
    field = chance.choice(
        [f for f, _ in present] if present and chance.random() < 0.8 else message.DESCRIPTOR.fields
    )
    name, value = field.name, getattr(message, field.name)
    if field.is_repeated:
        change_list(value, field, chance, mutate)
    elif field.message_type is not None:
        if chance.random() < 0.05:
            message.ClearField(name)
        else:
            value.SetInParent()
            change_field(value, chance, mutate)
    elif field.cpp_type == field.CPPTYPE_STRING:
        if isinstance(value, bytes):
            setattr(message, name, mutate(value, MOST_BYTES))
        else:
            setattr(message, name, value + chance.choice(["", "a", "ab" * 32, "é\n"]))
    else:
        setattr(message, name, number(field, chance))


def change_list(
    values: Any, field: Any, chance: random.Random, mutate: Callable[[bytes, int], bytes]
) -> None:
    """An element more, less, or another."""
    action = chance.random()
    if values and action < 0.3:
        del values[chance.randrange(len(values))]
    elif values and action < 0.7 and field.message_type is not None:
        change_field(chance.choice(values), chance, mutate)
    elif field.message_type is not None:
        added = values.add()
        if len(values) > 1:
            added.CopyFrom(values[0])
    elif field.cpp_type == field.CPPTYPE_STRING:
        values.append(mutate(values[0] if values else b"x", MOST_BYTES))
    else:
        values.append(number(field, chance))


def number(field: Any, chance: random.Random) -> Any:
    """Of the field's type."""
    if field.cpp_type == field.CPPTYPE_DOUBLE:
        return chance.choice([0.0, -1.0, 1e308, float("nan"), float("inf")])
    if field.enum_type is not None:
        return chance.choice([0, 1, 2, 3, 4, 17, -1])
    if field.cpp_type == field.CPPTYPE_BOOL:
        return chance.random() < 0.5
    return chance.choice(NUMBERS)


if __name__ == "__main__":
    sys.exit(main())
