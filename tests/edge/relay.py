"""A relay between a client and a server's socket that loses connections on purpose.

    client --- relay.path ---> Relay ---> server's socket

A connection is lost after a number of bytes that the test's generator chooses, in whichever direction they went; what was under way
is lost with it.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class Relay:
    """`num_cuts` connections were lost so far. `most_bytes` 0: none is lost; `is_open` False: new ones are refused."""

    def __init__(self, server: Path, rng: random.Random) -> None:
        self.server = server
        self.num_cuts = 0
        self.most_bytes = 0
        self.is_open = True
        self.goes_on = asyncio.Event()  # cleared: new connections are taken, and nothing is said to them
        self.goes_on.set()
        self._rng = rng
        self._links: set[_Link] = set()

    def cut(self) -> None:
        """Lose all connections that there are."""
        for link in list(self._links):
            link.cut()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.transport.abort()
            return
        await self.goes_on.wait()
        back, forth = await asyncio.open_unix_connection(self.server)
        link = _Link(self, (writer, forth), self._rng.randrange(200, self.most_bytes) if self.most_bytes else 0)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(link.pump(reader, forth))
                tasks.create_task(link.pump(back, writer))
        finally:
            self._links.discard(link)


class _Link:
    def __init__(self, relay: Relay, writers: tuple[asyncio.StreamWriter, ...], left: int) -> None:
        self.relay = relay
        self.writers = writers
        self.left = left  # bytes until it is lost; 0: never

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if self.left:
                    self.left -= len(data)
                    if self.left <= 0:
                        writer.write(data[: self.left])
                        self.cut()
                        return
                writer.write(data)
                await writer.drain()
        self.close()

    def cut(self) -> None:
        self.relay.num_cuts += 1
        self.close()

    def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def relay(server: Path, path: Path, rng: random.Random) -> AsyncIterator[Relay]:
    """Listens on `path` while the block runs."""
    made, tasks = Relay(server, rng), set()
    listener = await asyncio.start_unix_server(lambda *ends: tasks.add(asyncio.create_task(made._carry(*ends))), path)
    try:
        yield made
    finally:
        listener.close()
        made.is_open = False
        made.goes_on.set()
        for link in list(made._links):
            link.close()
        await asyncio.gather(*tasks)
