"""What a batcher does however much a client has sent, and once it is closed."""

import pytest

from protos.errors import Unavailable
from teacher_server import batcher
from teacher_server.batcher import Batcher
from tests.teacher_server.test_batcher import Notes, batches, job


async def test_a_long_line_is_looked_through_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "LOOK_AHEAD", 2)
    jobs = [job(b"1", "a"), job(b"2", "a"), job(b"1", "a"), job(b"1", "a")]
    assert await batches(Notes(80), jobs) == ["a1 a1", "a2 a1"]


async def test_a_closed_batcher_takes_no_prompt() -> None:
    closed = await Batcher.start(lambda: Notes(80), 0.0, 80)
    await closed.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await closed.prepare(None, [])  # type: ignore[arg-type]
