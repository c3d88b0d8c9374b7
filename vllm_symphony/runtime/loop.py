"""An event loop made before the fork, with files made after it (runtime/loop.py).

    fork server   loop = SelectorEventLoop    epoll 4, pair 5 and 6: never used by two processes
    child         all files closed by the lockdown -> `renew`: another epoll and another pair under the same numbers

Making a loop writes to 150 pages, making its files again to half of that. Python's objects know numbers only: nobody tells them.
Which numbers: the selector's, what it watches (the end of the pair that wakes it), and the one that was not open before.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import selectors
import socket


class InheritedLoop:
    """Owns the loop. Make it where few files are open: a program may only have numbers below its limit."""

    def __init__(self) -> None:
        before = _open_files()
        self._selector = selectors.EpollSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        asyncio.set_event_loop(self.loop)
        self._epoll = self._selector.fileno()
        self._woken = next(key.fd for key in self._selector.get_map().values())
        (self._waking,) = _open_files() - before - {self._epoll, self._woken}

    @property
    def is_used(self) -> bool:
        """Tasks, asynchronous generators or threads are left, or may be: this looks at names that are asyncio's own."""
        own = (getattr(self.loop, name, True) for name in ("_asyncgens", "_default_executor"))
        return any(own) or bool(asyncio.all_tasks(self.loop))

    def renew(self) -> None:
        """In a child: make the files anew. Raises OSError."""
        numbers = (self._epoll, self._woken, self._waking)
        epoll, pair = select.epoll(), socket.socketpair()
        made = [fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1) for file in (epoll, *pair)]
        for file in (epoll, *pair):
            file.close()  # they may have one another's numbers
        for fd, number in zip(made, numbers, strict=True):
            os.dup2(fd, number, inheritable=False)
            os.close(fd)
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waking, False)
        key = self._selector.get_key(self._woken)
        self._selector.unregister(self._woken)
        self._selector.register(self._woken, key.events, key.data)


def _open_files() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them
            os.fstat(int(name))
            found.add(int(name))
    return found
