"""What a test left behind: child processes, threads, file descriptors (see the fixture `leaks` in conftest.py).

Compared are two looks, before and after, so a session's engine or server, made earlier, is no leak. Some resources are made once
per process by a library at first use and stay for good; `Allowed` names them. Native threads (OpenMP, gRPC core) are not seen.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path

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
    children: frozenset[tuple[int, float]]


def look() -> Look:
    return Look(
        threads=frozenset(t.ident or 0 for t in threading.enumerate()),
        fds=frozenset(_fds()),
        children=frozenset((p.pid, p.create_time()) for p in _children()),
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
        for p in _children():
            with suppress(psutil.NoSuchProcess):
                line = _command(p)
                if (p.pid, p.create_time()) not in before.children and not _any(allowed.children, line):
                    found.append(f"child process {p.pid}: {line[:200]}")
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


def _children() -> list[psutil.Process]:
    """All below us."""
    found: list[psutil.Process] = []
    parents = [os.getpid()]
    while parents:
        children = children_of(parents.pop())
        parents += [p.pid for p in children]
        found += children
    return found


def children_of(pid: int) -> list[psutil.Process]:
    """None if it has ended. Asked of the system where it tells: psutil reads every process of the machine, and this runs often."""
    if not _TELLS:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).children()
        return []
    pids: list[int] = []
    for path in glob(f"/proc/{pid}/task/*/children"):
        with suppress(OSError):  # threads come and go
            pids += [int(child) for child in Path(path).read_text().split()]
    return list(_there(pids))


def _there(pids: list[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(pid)


def _fds() -> Iterator[tuple[int, str]]:
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own fd is gone by now
            yield int(name), os.readlink(f"/proc/self/fd/{name}")
