"""A program's standard input (lip/stdin.py): what its parent or a client feeds it, line by line, while its other threads run.

    async for line in lip.stdin:            lines without their ends, until the input is closed
        ...
    rest = await lip.stdin.read()           all of it, as text

`sys.stdin` works too, and holds up the whole process while it waits. This is a checkpoint and a cancel point, though no system call
of the kernel's: the bytes come by file descriptor 0. One thread at a time may read.
"""

from __future__ import annotations

import asyncio
import os

from vllm_symphony.lip import transport

CHUNK = 1 << 16
STDIN_FD = 0


class Stdin:
    """The standard input of whichever program asks."""

    async def readline(self) -> str | None:
        """The next line without its end; None when the input has ended."""
        session = transport.session()
        while (end := session.unread.find(b"\n")) < 0:
            data = await self._more(session)
            if not data:
                rest, session.unread = session.unread, b""
                return rest.decode(errors="replace") if rest else None
            session.unread += data
        line, session.unread = session.unread[:end], session.unread[end + 1 :]
        return line.decode(errors="replace")

    async def read(self) -> str:
        """All that is still to come, as text."""
        session = transport.session()
        parts = [session.unread]
        session.unread = b""
        while data := await self._more(session):
            parts.append(data)
        return b"".join(parts).decode(errors="replace")

    def __aiter__(self) -> Stdin:
        return self

    async def __anext__(self) -> str:
        line = await self.readline()
        if line is None:
            raise StopAsyncIteration
        return line

    async def _more(self, session: transport.Session) -> bytes:
        """Some bytes; none at the end."""
        if session.read_input is not None:
            return await session.read_input()
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(STDIN_FD, ready.set)
        except OSError:  # nothing to wait for: /dev/null, or a plain file
            return os.read(STDIN_FD, CHUNK)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(STDIN_FD)
        return os.read(STDIN_FD, CHUNK)


stdin = Stdin()
