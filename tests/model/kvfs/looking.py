"""What the model shows: stat, lists (tests/model/kvfs/looking.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.model.kvfs.computing import Computing
from tests.model.kvfs.tree import PASS, READ, File, Folder, Node, Process, View, demand
from vllm_symphony.abi.types import Credentials


class Looking(Computing):
    def shown(self, node: Node, path: str | None = None) -> dict[str, Any]:
        """As FileStat. Without a path: a set of those that it may be shown under."""
        if isinstance(node, View):
            return {"path": path, "kind": node.kind, "owner": node.owner, "mode": node.mode}
        paths = self.paths(node)
        stat = {
            "path": path if path is not None else set(paths or [None]), "owner": node.owner, "group": node.group,
            "mode": node.mode, "created_ns": node.created, "modified_ns": node.modified, "nlink": 1,
        }  # fmt: skip
        if isinstance(node, Folder):
            return {**stat, "kind": "dir", "durable": node.durable, "ttl_s": node.ttl_s}
        assert isinstance(node, File)
        return {
            **stat, "kind": "file", "nlink": len(paths), "length": node.length, "fidelity": node.fidelity,
            "num_open": sum(file is node for file in self.opened()), "busy": node.writer is not None,
            "frontier": node.frontier, "num_pages": len(node.pages), "durable": self.durable(node), "expires_ns": node.expires,
            "pinned": node.pinned, "charge": self.charge(node),
        }  # fmt: skip

    def charge(self, file: File) -> float:
        """A page that n files have costs each 1/n."""
        sharers = Counter(page for other in self.files() for page in other.pages)
        return sum(1 / sharers[page] for page in file.pages)

    def stat(self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None) -> dict[str, Any]:
        node = self.target(process, cred, fd, path)
        demand(fd is not None or node.visible_to(cred), "EACCES")  # type: ignore[attr-defined]
        return {"file": self.shown(node, path)}

    def walk(self, folder: Folder, path: str, cred: Credentials, deep: bool = True) -> Iterator[tuple[str, Node]]:
        """What the caller may see below a folder."""
        if not (folder.allows(cred, READ) and folder.allows(cred, PASS)):
            return
        for name in sorted(folder.entries):
            node = folder.entries[name]
            if node.visible_to(cred):  # type: ignore[attr-defined]
                yield f"{path}/{name}", node
                if deep and isinstance(node, Folder):
                    yield from self.walk(node, f"{path}/{name}", cred)

    def listdir(self, process: Process, cred: Credentials, path: str = "/", recursive: bool = False) -> dict[str, Any]:
        folder = self.lookup(process, cred, path)
        if isinstance(folder, View) and folder.kind == "dir":
            return {"files": [self.shown(node, at) for at, node in self.inside(process, cred, folder, path, recursive)]}
        demand(isinstance(folder, Folder), "ENOTDIR")
        assert isinstance(folder, Folder)
        demand(folder.allows(cred, READ), "EACCES")
        found = [self.shown(node, at) for at, node in self.walk(folder, path.rstrip("/"), cred, recursive)]
        if folder is self.root:
            found.append({"path": "/proc", "kind": "dir", "owner": "root"})
            found.sort(key=lambda stat: stat["path"].split("/"))
        return {"files": found}

    def list(self, process: Process, cred: Credentials, prefix: str = "/") -> dict[str, Any]:
        """Files alone, by path. A directory that may be passed but not read shows what is named in full."""
        names = prefix.split("/")[1:-1]
        folder: Any = self.root
        for name in names:
            if not (isinstance(folder.entries.get(name), Folder) and folder.allows(cred, PASS)):
                return {"files": []}
            folder = folder.entries[name]
        inside = self.walk(folder, "".join(f"/{name}" for name in names), cred)
        found = [(path, node) for path, node in inside if isinstance(node, File) and path.startswith(prefix)]
        return {"files": [self.shown(node, path) for path, node in sorted(found, key=lambda pair: pair[0])]}
