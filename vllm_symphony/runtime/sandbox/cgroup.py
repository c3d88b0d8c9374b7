"""Memory and tasks of each program, kept by the system's control groups (runtime/sandbox/cgroup.py).

    OUR GROUP / symphony-<pid of the fork server> / <slot>      v2: one tree;  v1: one in each of `memory` and `pids`

The fork server opens its home once, by descriptor, because it cannot see the file system afterwards. What is left of fork servers
that are gone is removed when the next one starts, and by the janitor (janitor.py) at once. A group counts what its program touches
from then on; pages that it shares with the fork server stay with that.

Where the home is made: v1 below our own group, or at the top. v2 where `memory` is handed down to children already: our own group,
or (as root) the top; else our own group becomes an inner one: all its processes, if they are ours, go to a leaf. That is what
`Delegate=yes` of systemd is for.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

from vllm_symphony.runtime.sandbox.cgroup_tree import Tree, find_trees

_PREFIX = "symphony-"


@dataclass(frozen=True, slots=True)
class _Home:
    """A directory of ours in one tree, and the descriptors of it and of where it is."""

    tree: Tree
    name: str
    fd: int
    parent_fd: int


class Cgroups:
    """The groups of one fork server's programs. `version` is `v1` or `v2`."""

    def __init__(self, version: str, homes: list[_Home]) -> None:
        self.version = version
        self._homes = homes

    @classmethod
    def open(cls, pid: int | None = None) -> Cgroups:
        """Make the home of this fork server. Raises OSError with the reason when there is no place for it."""
        trees, name = find_trees(), f"{_PREFIX}{pid or os.getpid()}"
        homes = []
        for tree in trees:
            sweep(tree)
            path = os.path.join(tree.parent, name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            tree.hand_down(path)
            homes.append(_Home(tree, name, _open(path), _open(tree.parent)))
        return cls(trees[0].version, homes)

    def make(self, name: str, *, memory_bytes: int, tasks: int) -> None:
        """A group with these limits. One that is there already gets them. Raises OSError."""
        for home in self._homes:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=home.fd)
        self.limit(name, memory_bytes=memory_bytes, tasks=tasks)

    def limit(self, name: str, *, memory_bytes: int, tasks: int) -> None:
        for home in self._homes:
            for file, text in home.tree.limits(memory_bytes, tasks):
                with contextlib.suppress(FileNotFoundError):  # no swap accounting
                    _write(home, f"{name}/{file}", text)

    def put(self, name: str, pid: int) -> None:
        """Move a process into a group. Raises OSError."""
        for home in self._homes:
            _write(home, f"{name}/cgroup.procs", str(pid))

    def num_killed(self, name: str) -> int:
        """How many of its processes the system killed for its memory, since it was made."""
        for home in self._homes:
            for line in _read(home, f"{name}/{home.tree.events}").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    def used_bytes(self, name: str) -> int:
        for home in self._homes:
            text = _read(home, f"{name}/{home.tree.usage}")
            if text:
                return int(text)
        return 0

    def remove(self, name: str) -> None:
        """Remove a group whose processes are gone; one that is not empty stays until the end."""
        for home in self._homes:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=home.fd)

    def descriptors(self) -> list[int]:
        return [fd for home in self._homes for fd in (home.fd, home.parent_fd)]

    def close(self) -> None:
        """Remove all of it that has no processes; what has is left to the janitor. Idempotent."""
        for home in self._homes:
            with contextlib.suppress(OSError):
                _remove(home)
            os.close(home.fd)
            os.close(home.parent_fd)
        self._homes = []

    def empty(self) -> bool:
        """Kill whatever is in the groups and remove them; whether all are gone. For when the fork server is."""
        gone = True
        for home in self._homes:
            for name in _inside(home):
                for pid in _read(home, f"{name}/cgroup.procs").split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            try:
                _remove(home)
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


def sweep(tree: Tree) -> None:
    """Remove what fork servers left that are gone."""
    for name in os.listdir(tree.parent):
        pid = name.removeprefix(_PREFIX)
        if name.startswith(_PREFIX) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            with contextlib.suppress(OSError):
                path = os.path.join(tree.parent, name)
                for entry in os.scandir(path):
                    if entry.is_dir(follow_symlinks=False):
                        os.rmdir(entry.path)
                os.rmdir(path)


def _remove(home: _Home) -> None:
    """Raises OSError when processes are in it, FileNotFoundError when it is gone."""
    for name in _inside(home):
        os.rmdir(name, dir_fd=home.fd)
    os.rmdir(home.name, dir_fd=home.parent_fd)


def _inside(home: _Home) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(home.fd) if entry.is_dir(follow_symlinks=False)]
    except OSError:  # it is gone
        return []


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _write(home: _Home, path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=home.fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _read(home: _Home, path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=home.fd)
    except OSError:
        return ""
    with os.fdopen(fd) as file:
        return file.read()
