"""Our standard input, as pieces for a program's (cli/standard_input.py).

A terminal is not passed on: nobody could tell whether a key is meant for us. Pipes and sockets are read when there is something, so
that a program which ends early is not kept waiting for a writer that never comes; a file is read as it is. What is not taken from
us stays with its writer: that is the back-pressure.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncGenerator

PIECE_BYTES = 1 << 16


def is_given(fd: int = 0) -> bool:
    """There is an input that is no terminal and not empty by nature."""
    try:
        found = os.fstat(fd)
    except OSError:  # closed
        return False
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == os.stat(os.devnull).st_rdev:
        return False
    return not os.isatty(fd)


async def pieces(fd: int = 0) -> AsyncGenerator[bytes, None]:
    """All of it, byte by byte what was written."""
    loop, is_readable = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, is_readable.set)
    except (PermissionError, ValueError):  # a file: always ready, epoll will not have it
        while piece := os.read(fd, PIECE_BYTES):
            yield piece
        return
    try:
        while True:
            await is_readable.wait()
            is_readable.clear()
            if not (piece := os.read(fd, PIECE_BYTES)):
                return
            loop.remove_reader(fd)  # until that is taken
            yield piece
            loop.add_reader(fd, is_readable.set)
    finally:
        loop.remove_reader(fd)
