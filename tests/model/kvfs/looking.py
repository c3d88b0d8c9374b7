"""What the model shows: stat, lists, sums, what is found (tests/model/kvfs/looking.py)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from tests.model.kvfs.editing import Editing
from tests.model.kvfs.keeping import Later
from tests.model.kvfs.tree import PASS, READ, File, Folder, Node, Process, View, demand
from vllm_symphony.abi.types import Credentials


def words_of(file: File) -> set[str]:
    return set(re.findall(r"[a-z]+", "".join(chr(token) if token < 128 else " " for token, _ in file.entries).lower()))


class Looking(Editing):
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
            "pinned": node.pinned, "stale": node.stale, "charge": self.cost(node, len(node.pages)), "locked": self.locked(node),
        }  # fmt: skip

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

    def du(self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None) -> dict[str, Any]:
        node = self.target(process, cred, fd, path)
        demand(fd is not None or node.visible_to(cred), "EACCES")  # type: ignore[attr-defined]
        if not isinstance(node, Folder):
            stat = self.shown(node, path)
            return {"files": [stat], "num_tokens": stat.get("length", 0), "num_pages": float(stat.get("charge", 0))}
        assert path is not None
        demand(node.allows(cred, READ), "EACCES")
        shown: list[dict[str, Any]] = []
        counted: set[File] = set()
        top = self._sum(node, path, cred, shown, counted)
        return {"files": shown, "num_tokens": top["length"], "num_pages": float(top["charge"])}

    def _sum(self, folder: Folder, path: str, cred: Credentials, shown: list[Any], counted: set[File]) -> dict[str, Any]:
        """A folder after what is in it, as the sum of that; each file once."""
        total = {"path": path, "kind": "dir", "length": 0, "num_pages": 0, "charge": 0.0}
        for at, node in self.walk(folder, path.rstrip("/"), cred, deep=False):
            if isinstance(node, File):
                if node in counted:
                    continue
                counted.add(node)
                part = self.shown(node, at)
                shown.append(part)
            else:
                assert isinstance(node, Folder)
                part = self._sum(node, at, cred, shown, counted)
            for key in ("length", "num_pages", "charge"):
                total[key] += part[key]
        shown.append(total)
        return total

    def find(
        self, process: Process, cred: Credentials, path: str = "/", name: str = "", owner: str = "", kind: str = "",
        fidelity: str = "", xattr: dict[str, str] | None = None, min_length: int | None = None, max_length: int | None = None,
        min_age_s: float | None = None, max_age_s: float | None = None, limit: int = 1000, text: str = "",
    ) -> dict[str, Any] | Later:  # fmt: skip
        demand(limit >= 1 and kind in ("", "file", "dir"), "EINVAL")
        demand(path != "/proc" and not path.startswith("/proc/"), "ENOENT")
        top = self.lookup(process, cred, path)
        if isinstance(top, Folder):
            demand(top.allows(cred, READ), "EACCES")
            inside = list(self.walk(top, path.rstrip("/"), cred))
        else:
            demand(top.visible_to(cred), "EACCES")  # type: ignore[attr-defined]
            inside = [(path, top)]

        def matches(at: str, node: Node) -> bool:
            age_s = (self.now - node.modified) / 1e9
            length = node.length if isinstance(node, File) else None
            return (
                (not name or fnmatchcase(at.split("/")[-1], name))
                and owner in ("", node.owner)
                and kind in ("", "file" if isinstance(node, File) else "dir")
                and fidelity in ("", node.fidelity if isinstance(node, File) else None)
                and (not xattr or node.allows(cred, READ))
                and all(key in node.xattrs and fnmatchcase(node.xattrs[key], glob) for key, glob in (xattr or {}).items())
                and (min_length is None or (length is not None and length >= min_length))
                and (max_length is None or (length is not None and length <= max_length))
                and (min_age_s is None or age_s >= min_age_s)
                and (max_age_s is None or age_s <= max_age_s)
            )

        found = sorted(((at, node) for at, node in inside if matches(at, node)), key=lambda pair: pair[0])
        if not text:
            return {"files": [self.shown(node, at) for at, node in found[:limit]], "total": len(found)}
        readable = {node: at for at, node in reversed(found) if isinstance(node, File) and node.allows(cred, READ)}
        hits = sorted(at for node, at in readable.items() if set(text.split()) <= words_of(node))

        def ranked(result: Any) -> dict[str, Any]:
            assert sorted(file.path for file in result.files) == hits[:limit] or len(hits) > limit, (result, hits)
            return {"total": len(hits)}

        return Later(ranked)
