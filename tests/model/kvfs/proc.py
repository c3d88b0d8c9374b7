"""The model's /proc: views of processes that the caller may see (tests/model/kvfs/proc.py)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.kvfs.naming import Naming, parts_of
from tests.model.kvfs.tree import Node, Process, Refused, View, demand
from vllm_symphony.abi.types import Credentials


def view_of(owner: str, kind: str, process: Process | None = None, is_fds: bool = False) -> View:
    return View(owner, owner, 0o555 if kind == "dir" else 0o444, 0, 0, kind=kind, process=process, is_fds=is_fds)


class Proc(Naming):
    processes: list[Process]
    zombies: list[Process]

    def view(self, process: Process, cred: Credentials, path: str) -> Node:
        """What is at a path below /proc: a view, or an open file itself."""
        node: Node = view_of("root", "dir")
        for name in parts_of(path)[1:]:
            demand(isinstance(node, View) and node.kind == "dir", "ENOTDIR")
            assert isinstance(node, View)
            node = self._entry(process, cred, node, name)
        return node

    def _entry(self, caller: Process, cred: Credentials, above: View, name: str) -> Node:
        """Raises Refused: there is none, or none for this caller."""
        process = above.process
        if process is None:
            process = self._process(caller.pid if name == "self" else name, cred)
            return view_of(process.cred.principal, "dir", process)
        if not above.is_fds:
            demand(name in ("fd", "status"), "ENOENT")
            if name == "fd":
                return view_of(above.owner, "dir", process, is_fds=True)
            return view_of(above.owner, "proc", process)
        opened = next((opened for fd, opened in process.fds.items() if str(fd) == name), None)
        demand(opened is not None and (cred.is_admin or opened.principal == cred.principal), "ENOENT")
        assert opened is not None
        return opened.file

    def _process(self, pid: int | str, cred: Credentials) -> Process:
        for process in (*self.processes, *self.zombies):
            if str(process.pid) == str(pid) and (cred.is_admin or process.cred.principal == cred.principal):
                return process
        raise Refused("ENOENT")

    def inside(self, caller: Process, cred: Credentials, view: View, path: str, deep: bool) -> Iterator[tuple[str, Node]]:
        """What a directory of it shows, by name. Connections of others are found by their number only."""
        if view.process is None:
            sessions = [process for process in (*self.processes, *self.zombies) if process.kind == "session" or process is caller]
            names = [*(str(process.pid) for process in sessions), "self"]
        else:
            names = [str(fd) for fd in view.process.fds] if view.is_fds else ["fd", "status"]
        for name in sorted(names):
            try:
                node = self._entry(caller, cred, view, name)
            except Refused:
                continue
            yield f"{path}/{name}", node
            if deep and isinstance(node, View) and node.kind == "dir":
                yield from self.inside(caller, cred, node, f"{path}/{name}", deep)
