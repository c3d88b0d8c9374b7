"""/proc: processes as files (kernel/fs/proc.py). Computed when somebody looks; nothing of it is stored or can be changed.

    /proc/12/status     text: the JSON of ProcessStat
    /proc/12/fd/3       the open file itself, as far as its mode lets the caller
    /proc/self          the caller's own process

Only processes that the caller may see are there, and of an edge's fds only those that it opened for this caller.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import NoSuchFile, NoSuchProcess, NotDirectory
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs.node import SYSTEM, Node
from vllm_symphony.kernel.fs.path import PROC, demand_within

if TYPE_CHECKING:
    from vllm_symphony.kernel.machine import Machine
    from vllm_symphony.kernel.process import Process

ROOT = f"/{PROC}"
SELF, STATUS, FD = "self", "status", "fd"


class View(Node):
    """A file or directory that is computed; it has no number."""

    __slots__ = ()

    def __init__(self, owner: str, mode: int, now_ns: int) -> None:
        super().__init__(Ino(0), owner, owner, mode, now_ns)


class ViewDirectory(View):
    """A directory: of all processes, of one (`process`), or of its fds (`is_fds`)."""

    __slots__ = ("is_fds", "process")
    kind = "dir"

    def __init__(self, process: Process | None, is_fds: bool, now_ns: int) -> None:
        super().__init__(process.cred.principal if process is not None else SYSTEM.principal, 0o555, now_ns)
        self.process = process
        self.is_fds = is_fds


class ViewText(View):
    """A process's status."""

    __slots__ = ("process",)
    kind = "proc"

    def __init__(self, process: Process, now_ns: int) -> None:
        super().__init__(process.cred.principal, 0o444, now_ns)
        self.process = process

    def text(self, m: Machine) -> str:
        """What is read."""
        return json.dumps(asdict(self.process.stat(m.model.page_size, m.offset_ns)))


def is_in_proc(path: str) -> bool:
    """Whether the path is /proc, or below."""
    return path == ROOT or path.startswith(f"{ROOT}/")


def find(m: Machine, call: Call, path: str) -> Node:
    """What is at a path below /proc. Raises NoSuchFile, NotDirectory, AccessDenied."""
    node: Node = ViewDirectory(None, False, m.boot_ns)
    parts = m.files.parts(path)
    demand_within(call.cred, path)
    for name in parts[1:]:
        if not isinstance(node, ViewDirectory):
            raise NotDirectory(f"no directory holds {name!r} of {path}: a file is in the way", path=path)
        found = _entry(m, call, node, name)
        if found is None:
            raise NoSuchFile(f"no such file: {path}", path=path)
        node = found
    return node


def inside(m: Machine, call: Call, directory: ViewDirectory) -> list[tuple[str, Node]]:
    """What the directory shows the caller, with names."""
    process = directory.process
    if process is None:
        shown = [p for p in m.processes.values() if p is call.process or p.kind in ("program", "session")]
        names = [*(str(p.pid) for p in shown), SELF]
    elif directory.is_fds:
        names = [str(fd) for fd in process.fds.files]
    else:
        names = [FD, STATUS]
    found = ((name, _entry(m, call, directory, name)) for name in names)
    return [(name, node) for name, node in found if node is not None]


def _entry(m: Machine, call: Call, directory: ViewDirectory, name: str) -> Node | None:
    """One name in it, if the caller may see that."""
    process = directory.process
    if process is None:
        try:
            process = m.find(call.process.pid if name == SELF else _number(name), call.cred)
        except NoSuchProcess:
            return None
        return ViewDirectory(process, False, process.started_ns)
    if directory.is_fds:
        file = process.fds.files.get(_number(name))
        return file.inode if file is not None and (file.principal == call.cred.principal or call.cred.is_admin) else None
    if name == FD:
        return ViewDirectory(process, True, process.started_ns)
    return ViewText(process, process.started_ns) if name == STATUS else None


def _number(name: str) -> int:
    """A pid or fd as it is written, in one way only; 0, which is neither, for anything else."""
    return int(name) if name.isascii() and name.isdecimal() and name[0] != "0" else 0
