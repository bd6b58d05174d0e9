"""Every message that fuzzing started from or found is met as it was before: its name begins with its outcome."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.admission import IGNORED, OK, OUTCOMES, UNREADABLE, Admission, admission

CORPUS = sorted(Path(__file__).with_name("corpus").iterdir())


@pytest.fixture(scope="module")
def admit() -> Iterator[Admission]:
    with admission() as each:
        yield each


def test_the_corpus_holds_every_outcome():
    outcomes = Counter(path.name.partition("--")[0] for path in CORPUS)
    without_a_server = OUTCOMES - {
        # These depend on time or on what a stream has seen before.
        *("DEADLINE_EXCEEDED", "CANCELLED", "ALREADY_EXISTS", "UNAVAILABLE", "DATA_LOSS"),
        *("UNAUTHENTICATED", "PERMISSION_DENIED"),
    }
    assert set(outcomes) == without_a_server
    assert {OK, UNREADABLE, IGNORED} < set(outcomes)
    assert outcomes["INVALID_ARGUMENT"] >= 60


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_replay(admit: Admission, path: Path):
    assert admit(path.read_bytes()) == path.name.partition("--")[0]
