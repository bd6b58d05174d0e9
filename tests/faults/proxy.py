"""A line between client and server that can be cut, frozen, slowed down, or closed on one side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

CHUNK_BYTES = 16_384


class Proxy:
    """Forwards TCP. Change the attributes while it runs."""

    def __init__(self, target: str) -> None:
        self.delay_s = 0.0
        """Added to every chunk, in each direction."""
        self.bytes_per_s = 0.0
        """Of each direction; 0: as fast as it goes."""
        self.refusing = False
        """Hang up on whoever connects."""
        self.connections = 0
        """Made so far."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its own address."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Keep connections open and forward nothing."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward again what waited."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        self.connections += 1
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._flowing.wait()
                wait_s = self.delay_s + (len(data) / self.bytes_per_s if self.bytes_per_s else 0)
                if wait_s:
                    await asyncio.sleep(wait_s)
                sink.write(data)
                await sink.drain()
        self._writers.discard(sink)
        sink.close()
