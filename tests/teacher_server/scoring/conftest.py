from collections.abc import Iterator

import pytest

from tests.loopback import serving
from tests.teacher_server.scoring.digits import TEACHER


@pytest.fixture(scope="session")
def digits_teacher() -> Iterator[str]:
    """Address of the toy's teacher, deterministic."""
    with serving(TEACHER, engine={"deterministic": True}) as address:
        yield address
