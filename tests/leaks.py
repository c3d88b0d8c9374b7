"""What a test left behind: child processes, threads, file descriptors (see the fixture `leaks` in conftest.py).

Compared are two looks, before and after, so a session's engine or server, made earlier, is no leak. Some resources are made once
per process by a library at first use and stay for good; `Allowed` names them. Native threads (OpenMP, gRPC core) are not seen.
There are ten thousand tests, and a session's servers and browser have hundreds of threads: a look reads the system's files itself.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil

_TELLS = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
SETTLE_S = 20.0  # an end that was asked for may take a moment; only a leak pays for the wait


@dataclass(frozen=True)
class Allowed:
    """Substrings: of a thread's name, of what an fd points to, of a child's command line."""

    threads: tuple[str, ...] = (
        "_poll_wrapper",  # gRPC aio's poller, one per process
        "ThreadPoolExecutor",  # asyncio.to_thread and vLLM's pools keep their workers
        "asyncio_",
        "pytest_timeout",
        "execnet",
    )
    fds: tuple[str, ...] = ("anon_inode:", "/dev/", "/proc/", "/sys/", "memfd:")
    children: tuple[str, ...] = (
        "resource_tracker",
        "forkserver",
        "symphony-ready ",
        "symph-janitor ",  # these two: a fork server's
        "/chromium --type=",  # a session's browser makes and ends helpers when it likes; the browser itself has no such word
    )


@dataclass(frozen=True)
class Look:
    threads: frozenset[int]
    fds: frozenset[tuple[int, str]]
    children: frozenset[tuple[int, bytes]]  # pid, and when it started


def look() -> Look:
    return Look(
        threads=frozenset(t.ident or 0 for t in threading.enumerate()),
        fds=frozenset(_fds()),
        children=frozenset(_children()),
    )


def left_behind(before: Look, allowed: Allowed, kinds: frozenset[str]) -> list[str]:
    """One line for each thing that is there now, was not before, and is not allowed; waits a little for it to go."""
    deadline = time.monotonic() + SETTLE_S
    while (found := _found(before, allowed, kinds)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _found(before: Look, allowed: Allowed, kinds: frozenset[str]) -> list[str]:
    found = []
    if "children" in kinds:
        for child in _children():
            if child in before.children:
                continue
            with suppress(psutil.NoSuchProcess):
                line = _command(psutil.Process(child[0]))
                if not _any(allowed.children, line):
                    found.append(f"child process {child[0]}: {line[:200]}")
    if "threads" in kinds:
        found += [
            f"thread {t.name}" for t in threading.enumerate() if t.ident not in before.threads and not _any(allowed.threads, t.name)
        ]
    if "fds" in kinds:
        found += [f"fd {fd} -> {to}" for fd, to in _fds() if (fd, to) not in before.fds and not _any(allowed.fds, to)]
    return found


def _any(parts: tuple[str, ...], text: str) -> bool:
    return any(p in text for p in parts)


def _command(p: psutil.Process) -> str:
    try:
        return f"{p.name()} {' '.join(p.cmdline())}"
    except psutil.ZombieProcess:
        return f"{p.name()} (ended, never waited for)"


def _children() -> list[tuple[int, bytes]]:
    """All below us, and when each started."""
    found: list[tuple[int, bytes]] = []
    parents = [os.getpid()]
    while parents:
        pids = _pids_below(parents.pop())
        parents += pids
        for pid in pids:
            with suppress(OSError):  # it has ended
                found.append((pid, _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[19]))
    return found


def children_of(pid: int) -> list[psutil.Process]:
    """None if it has ended."""
    return list(_there(_pids_below(pid)))


def _pids_below(pid: int) -> list[int]:
    """Asked of the system where it tells: psutil reads every process of the machine."""
    if not _TELLS:
        with suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(pid).children()]
        return []
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):  # threads come and go
                found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = chunk = os.read(fd, 1 << 16)
        while chunk:
            data += (chunk := os.read(fd, 1 << 16))
        return data
    finally:
        os.close(fd)


def _there(pids: list[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def _fds() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own fd is gone by now
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
