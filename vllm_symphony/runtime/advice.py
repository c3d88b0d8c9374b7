"""What a program is told when it asks the system for what it cannot have (runtime/advice.py).

    subprocess.run(...)  ->  PermissionError: programs cannot start processes (subprocess.Popen); lip.spawn starts a program, ...

This confines nobody: the sandbox does that, and whoever gets around this hook meets it. The hook only says in time, and in words,
what the system would say by a number: one audit hook of Python instead of patches to many modules.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import Any

_PROCESSES = "programs cannot start processes ({}); lip.spawn starts a child program, lip.call_tool asks a tool of the operator's"
_NETWORK = "programs have no network ({}); lip.call_tool asks a tool of the operator's, lip.channel talks to other programs"
_FILES = "programs cannot change files of the system ({}); keep data in KV files (lip.open) or in what main returns"
_HINT = "(programs are confined: they have the standard library and numpy, and no other files, network or processes)\n"
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_is_given = False


def install() -> None:
    """Once, in the fork server: nothing happens before `give`."""
    sys.addaudithook(_hear)


def give() -> None:
    """In a program's process, from now on."""
    global _is_given
    _is_given = True


def hint(error: BaseException) -> str:
    """A line to show below an error that the system itself made; nothing for others."""
    return _HINT if _is_given and isinstance(error, PermissionError) and error.errno is not None else ""


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _is_given:
        check = _CHECKS.get(event)
        if check is not None:
            check(event, args)


def _refuse(text: str) -> Callable[[str, tuple[Any, ...]], None]:
    def check(event: str, args: tuple[Any, ...]) -> None:
        raise PermissionError(text.format(event))

    return check


def _check_open(event: str, args: tuple[Any, ...]) -> None:
    path, _, flags = args
    if flags & _WRITES and isinstance(path, str | bytes) and os.fsdecode(path) != os.devnull:
        raise PermissionError(_FILES.format(path))


def _check_socket(event: str, args: tuple[Any, ...]) -> None:
    if args[1] != socket.AF_UNIX:  # a pair of connected ones is how threads wake a loop
        raise PermissionError(_NETWORK.format("socket.socket"))


_CHECKS: dict[str, Callable[[str, tuple[Any, ...]], None]] = {
    **dict.fromkeys(
        ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"),
        _refuse(_PROCESSES),
    ),
    **dict.fromkeys(("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"), _refuse(_NETWORK)),
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"), _refuse(_FILES)),
    "socket.__new__": _check_socket,
    "open": _check_open,
}
