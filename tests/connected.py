"""One stream to a server, for tests of what crosses it; TeacherClient is what people use."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from protos.connection import Connection, ConnectionSettings
from protos.wire_stats import WireStats

TIMEOUT_S = 30.0


@contextlib.asynccontextmanager
async def connected(address: str, **settings: Any) -> AsyncIterator[Connection]:
    """A connection with `settings` of ConnectionSettings."""
    connection = Connection(address, ConnectionSettings(**settings), WireStats())
    try:
        await connection.connect(TIMEOUT_S)
        yield connection
    finally:
        await connection.close()
