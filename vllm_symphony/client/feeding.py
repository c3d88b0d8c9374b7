"""A program's standard input (client/feeding.py).

    bytes, text, or pieces as they come  --64 KiB at a time-->  Feed  -->  fd 0 of the program
                                         <------ EAGAIN -----   it has a MiB unread: wait, then the same piece again

Pieces go in order, each once: a retry of one that may have arrived has its `request_id`. A program that has closed its input, or
has ended, wants no more; that is no error of whoever feeds it, as for a shell's pipe.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress

from vllm_symphony.client.retry import Retry
from vllm_symphony.errors import BrokenPipe, NoSuchProcess, WouldBlock

PIECE_BYTES = 1 << 16
FULL = Retry(first_s=0.01, most_s=0.5)  # how long to wait where it has too much unread

Stdin = bytes | str | bool | AsyncIterable[bytes] | None
Feed = Callable[[bytes, bool], Awaitable[None]]


async def feed_patiently(once: Feed, data: bytes, eof: bool) -> None:
    """Feed all of it, however slowly it is read; `once` is one try with one piece."""
    pieces = [data[i : i + PIECE_BYTES] for i in range(0, len(data), PIECE_BYTES)] or [b""]
    for i, piece in enumerate(pieces):
        waits = FULL.waits()
        while True:
            try:
                await once(piece, eof and i == len(pieces) - 1)
                break
            except WouldBlock as e:
                await asyncio.sleep(max(next(waits), e.retry_after_s or 0.0))


async def feed_all(feed: Feed, stdin: bytes | str | AsyncIterable[bytes]) -> None:
    """Feed it to its end, or until the program wants no more."""
    with suppress(BrokenPipe, NoSuchProcess):
        if isinstance(stdin, bytes | str):
            await feed(stdin.encode() if isinstance(stdin, str) else stdin, True)
            return
        async for piece in stdin:
            await feed(piece, False)
        await feed(b"", True)
