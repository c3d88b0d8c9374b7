"""What the model tells those who watch (tests/model/kvfs/watching.py).

A watcher hears of what lists would show it: by the rights of the moment, on the way and at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.model.kvfs.looking import Looking
from tests.model.kvfs.tree import PASS, READ, Folder, Node, Process, Refused, demand
from vllm_symphony.abi.types import Credentials


@dataclass(eq=False)
class Watcher:
    """`path`: where `top` is, or was last. `told`: since somebody looked; of changed tokens the files alone."""

    process: Process
    cred: Credentials
    top: Folder
    path: str
    recursive: bool
    told: list[tuple[str, str, str, str]] = field(default_factory=list)
    modified: set[int] = field(default_factory=set)


class Watching(Looking):
    def watch(self, process: Process, cred: Credentials, path: str = "/", recursive: bool = True) -> Watcher:
        demand(path != "/proc" and not path.startswith("/proc/"), "ENOENT")
        top = self.lookup(process, cred, path)
        demand(top.visible_to(cred), "EACCES")  # type: ignore[attr-defined]
        assert isinstance(top, Folder)
        self.watches.append(Watcher(process, cred, top, path, recursive))
        return self.watches[-1]

    def stop_watching(self, watcher: Watcher, reason: str) -> None:
        self.watches.remove(watcher)
        self.answers.append((watcher, Refused(reason)))

    def happened(self, kind: str, node: Node, path: str, new_path: str = "", detail: str = "") -> None:
        for watcher in self.watches:
            places = self.paths(watcher.top)
            if not places and node is not watcher.top:
                continue  # what was watched is gone; another of its name is another one
            old, new = watcher.path, (places or [watcher.path])[0]
            was = self._covers(watcher, old, path) and self._may_see(watcher.cred, node, path)
            watcher.path = new
            comes = bool(new_path) and self._covers(watcher, new, new_path) and self._may_see(watcher.cred, node, new_path)
            if kind == "modify" and was:
                watcher.modified.add(node.ino)
            elif was and (comes or kind != "move"):
                watcher.told.append((kind, path, new_path, detail))
            elif was:
                watcher.told.append(("delete", path, "", "moved"))
            elif comes:
                watcher.told.append(("create", new_path, "", "moved"))

    @staticmethod
    def _covers(watcher: Watcher, top: str, path: str) -> bool:
        if path == top:
            return True
        inside = path.removeprefix(top.rstrip("/") + "/")
        return inside != path and (watcher.recursive or "/" not in inside)

    def _may_see(self, cred: Credentials, node: Node, path: str) -> bool:
        if node is self.root:
            return True
        at: Any = self.root
        for name in path.split("/")[1:-1]:
            if not isinstance(at, Folder) or not at.allows(cred, PASS):
                return False
            at = at.entries.get(name)
        if not isinstance(at, Folder) or not at.allows(cred, PASS):
            return False
        return (at.allows(cred, READ) or node.is_of(cred)) and node.visible_to(cred)  # type: ignore[attr-defined]
