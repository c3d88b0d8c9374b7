"""One process, many programs, and `print` goes where it belongs (engine/routed.py).

    print() -> sys.stdout (Routed) --> the context's stream -> pipe to the reactor
                                   |-> of no program: the server's own stdout

The stream is found by a context variable, so it follows a program's tasks and `asyncio.to_thread`, but not a bare thread. Nothing
here blocks the loop: what a pipe has no room for waits in memory, for these programs are trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, TextIO

_streams: ContextVar[dict[str, PipeStream] | None] = ContextVar("symphony_streams", default=None)


class PipeStream(io.TextIOBase):
    """A program's stdout or stderr. Owns the fd; writes come from the loop's thread or another."""

    def __init__(self, fd: int, loop: asyncio.AbstractEventLoop) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._loop = loop
        self._unsent = bytearray()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            self._send(data)
        else:
            self._loop.call_soon_threadsafe(self._send, data)
        return len(text)

    async def drain(self) -> None:
        """Until all of it is in the pipe, or nobody reads it any more."""
        await self._is_empty.wait()

    def shut(self) -> None:
        """Close the fd. Idempotent; later text is lost."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_writer(fd)
            os.close(fd)
        self._is_empty.set()

    def _send(self, data: bytes) -> None:
        if self._fd < 0:
            return
        self._unsent += data
        if len(self._unsent) == len(data):
            self._flush()

    def _flush(self) -> None:
        try:
            del self._unsent[: os.write(self._fd, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the reactor has closed its end
            self._unsent.clear()
        if self._unsent:
            self._is_empty.clear()
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._is_empty.set()
            self._loop.remove_writer(self._fd)


class Routed(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr`."""

    def __init__(self, name: str, own: TextIO) -> None:
        self._name = name
        self.own = own

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def flush(self) -> None:
        self._stream().flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.own.fileno()

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def _stream(self) -> Any:
        streams = _streams.get()
        return self.own if streams is None else streams[self._name]


def route(streams: dict[str, PipeStream]) -> None:
    """From here on, in this context and the tasks that start from it, `print` goes to these: `stdout` and `stderr`."""
    _streams.set(streams)


@contextlib.contextmanager
def routing() -> Iterator[None]:
    """While it is open, `sys.stdout` and `sys.stderr` look at the context."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Routed("stdout", before[0]), Routed("stderr", before[1])
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
