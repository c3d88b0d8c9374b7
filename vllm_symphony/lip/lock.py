"""Locks of open files, with a lease (lip/lock.py).

    async with file.lock(lease_s=10) as lock:      others' writes are FileBusy; who asks for it waits
        await file.append(tokens)
        await lock.renew()                         10 s more

The lease frees what a program that hangs has locked. Its writes after that are StaleFile, once, so that it learns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vllm_symphony.abi.calls import Flock, LeaseResult
from vllm_symphony.lip import transport


class Lock:
    """A lock that is to be had: `async with`, or `acquire` and `release`. `is_open`: whether its file still is."""

    def __init__(self, fd: int, args: Flock, is_open: Callable[[], bool]) -> None:
        self._fd = fd
        self._args = args
        self._is_open = is_open

    async def acquire(self) -> None:
        """Wait for it. Cancelled while the grant is on its way, it is given back."""
        there, thread = transport.session().transport, transport.tid()
        pending = there.call("flock", self._args, tid=thread)
        try:
            await asyncio.shield(pending)
        except asyncio.CancelledError:
            if not pending.cancel():  # it is granted
                there.post("flock", Flock(self._fd, "unlock"), tid=thread)
            raise

    async def renew(self, lease_s: float | None = None) -> float:
        """Begin the lease anew; gives its length. TimedOut, WouldBlock when it had run out and somebody else has the lock."""
        lease_s = self._args.lease_s if lease_s is None else lease_s
        result: LeaseResult = await transport.call("flock", replace(self._args, lease_s=lease_s))
        return result.lease_s

    async def release(self) -> None:
        """Let others have it; harmless when the lease has run out, or the file is closed."""
        if self._is_open():
            await transport.call("flock", Flock(self._fd, "unlock"))

    async def __aenter__(self) -> Lock:
        await self.acquire()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.release()
