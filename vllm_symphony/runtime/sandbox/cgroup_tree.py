"""Where control groups can be made on this machine (runtime/sandbox/cgroup_tree.py).

    /proc/self/mountinfo   which trees are mounted, and which part of them
    /proc/self/cgroup      which group of each we are in

Both versions are looked for, the second first; v1 needs two trees, `memory` and `pids` (without the latter, the rlimit on tasks
does).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOENT

_LEAF = "symphony-server"


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree, and the group in it below which ours may be made. `kind`: `all` (v2), `memory` or `pids`."""

    kind: str
    parent: str

    @property
    def version(self) -> str:
        return "v2" if self.kind == "all" else "v1"

    @property
    def events(self) -> str:
        """The file that counts those killed for memory."""
        return "memory.events" if self.kind == "all" else "memory.oom_control"

    @property
    def usage(self) -> str:
        return "memory.current" if self.kind == "all" else "memory.usage_in_bytes"

    def limits(self, memory_bytes: int, tasks: int) -> list[tuple[str, str]]:
        """File and text for each limit. v1 keeps memory <= memory with swap at all times: so the larger goes first and last."""
        memory = str(memory_bytes)
        if self.kind == "all":
            return [("memory.max", memory), ("memory.swap.max", "0"), ("pids.max", str(tasks))]
        if self.kind == "pids":
            return [("pids.max", str(tasks))]
        with_swap = "memory.memsw.limit_in_bytes"
        return [(with_swap, "-1"), ("memory.limit_in_bytes", memory), (with_swap, memory)]

    def hand_down(self, path: str) -> None:
        """Let groups below `path` have limits of their own. Raises OSError."""
        if self.kind == "all":
            _write(os.path.join(path, "cgroup.subtree_control"), "+memory +pids")


def find_trees() -> list[Tree]:
    """The trees to use; at least memory. Raises OSError with the reason when there is none that we may use."""
    mounts, own = list(_mounts()), _own_groups()
    for root, point, kind, _ in mounts:
        if kind == "cgroup2":
            parent = _v2_parent(point, _below(point, root, own.get("", "/")))
            if parent is not None:
                return [Tree("all", parent)]
    trees = []
    for controller in ("memory", "pids"):
        for root, point, kind, options in mounts:
            if kind == "cgroup" and controller in options:
                places = (_below(point, root, own.get(controller, "/")), point)
                trees += [Tree(controller, place) for place in places if _may_make(place)][:1]
    if not any(tree.kind == "memory" for tree in trees):
        raise OSError(ENOENT, "no control group with memory in which we may make others")
    return trees


def _v2_parent(point: str, own: str) -> str | None:
    above = [os.path.dirname(own)] if os.path.basename(own) == _LEAF else []  # an earlier fork server of ours moved us there
    for place in (own, *above, point):
        if "memory" in _words(place, "cgroup.subtree_control") and _may_make(place):
            return place
    if "memory" in _words(own, "cgroup.controllers") and _may_make(own):
        with contextlib.suppress(OSError):
            _become_inner(own)
            return own
    return None


def _become_inner(own: str) -> None:
    """Our own group hands memory down: no process may stay in it itself. Raises OSError when one is not ours to move."""
    pids = _words(own, "cgroup.procs")
    for pid in pids:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            raise OSError(1, f"process {pid} of another user is in {own}")
    leaf = os.path.join(own, _LEAF)
    with contextlib.suppress(FileExistsError):
        os.mkdir(leaf)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            _write(os.path.join(leaf, "cgroup.procs"), pid)
    _write(os.path.join(own, "cgroup.subtree_control"), "+memory +pids")


def _mounts() -> Iterator[tuple[str, str, str, list[str]]]:
    """Root, mount point, type and options of each mount of control groups."""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            if kind.startswith("cgroup"):
                _, _, _, root, point = before.split()[:5]
                yield root, point, kind, options.split(",")


def _own_groups() -> dict[str, str]:
    """Controller -> path of the group that we are in; v2 has the name ``."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as lines:
        for line in lines:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            found |= dict.fromkeys(controllers.split(","), path)
    return found


def _below(point: str, root: str, path: str) -> str:
    """The directory of a group: a container has only a part of the tree mounted."""
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    return os.path.normpath(f"{point}/{inside}") if inside.strip("/") else point


def _may_make(path: str) -> bool:
    return os.access(path, os.W_OK | os.X_OK) and os.access(os.path.join(path, "cgroup.procs"), os.W_OK)


def _words(path: str, file: str) -> list[str]:
    try:
        with open(os.path.join(path, file)) as text:
            return text.read().split()
    except OSError:
        return []


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
