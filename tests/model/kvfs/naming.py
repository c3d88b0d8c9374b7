"""The model's tree: paths, rights on the way, and the calls on names (tests/model/kvfs/naming.py).

Each call is a method `op(process, cred, **args)` that raises `Refused` or gives what a user sees. The order of the checks is
that of POSIX: the path first, then what is at its end, then the right to change the directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.model.kvfs.tree import PASS, READ, STRENGTH, WRITE, File, Folder, Node, Process, Refused, View, below, demand
from vllm_symphony.abi.types import Credentials

STICKY, SETGID = 0o1000, 0o2000
NAME_BYTES, PATH_BYTES = 255, 4096
SECOND = 1_000_000_000
Place = tuple[Folder, str]


def parts_of(path: str) -> list[str]:
    demand(len(path.encode()) <= PATH_BYTES, "ENAMETOOLONG")
    demand(path.startswith("/") and "\0" not in path, "EINVAL")
    parts = path[1:].split("/") if path != "/" else []
    for part in parts:
        demand(part not in ("", ".", ".."), "EINVAL")
        demand(len(part.encode()) <= NAME_BYTES, "ENAMETOOLONG")
    return parts


class Naming:
    """`now` is set by the driver. `opened` and `working`, of the parts above, say what holds files beside names."""

    def __init__(self, max_files: int) -> None:
        self.now = 0
        self.max_files = max_files
        self.alarms: dict[Any, tuple[int, int]] = {}  # file, lock hold, ... -> (when, number)
        self.root = Folder("root", "root", 0o1777, 0, 0, durable="tokens", is_fixed=True)
        self.home = Folder("root", "root", 0o755, 0, 0, is_fixed=True)
        self.tmp = Folder("root", "root", 0o1777, 0, 0, durable="none", is_fixed=True)
        self.root.entries = {"home": self.home, "tmp": self.tmp}
        self.watches: list[Any] = []

    def opened(self) -> Iterator[File]:
        raise NotImplementedError

    def working(self) -> Iterator[File]:
        raise NotImplementedError

    # ---- looking everywhere

    def files(self) -> list[File]:
        """All that exist: with a name, open, or in the hands of a call."""
        named = (node for _, node in below(self.root, "") if isinstance(node, File))
        return list({id(file): file for file in (*named, *self.opened(), *self.working())}.values())

    def paths(self, node: Node) -> list[str]:
        return ["/"] if node is self.root else [path for path, other in below(self.root, "") if other is node]

    def demand_room(self, owner: str, num_more: int = 1) -> None:
        """For more files or directories."""
        folders = sum(isinstance(node, Folder) for _, node in below(self.root, "")) - 2
        demand(len(self.files()) + folders + num_more <= self.max_files, "EDQUOT")

    def demand_owned(self, owner: str, num_more: int = 1) -> None:
        """Raises Refused when the owner may not have so many more."""

    def durable(self, node: Node) -> str:
        """Of a file: the strongest word of the directories that it is in. Below one that keeps none nothing is kept."""
        words = ["none"]
        for path in self.paths(node):
            at, said = self.root, [self.root.durable]
            for name in path.split("/")[1:-1]:
                at = at.entries[name]  # type: ignore[assignment]
                said.append(at.durable)
            words.append("none" if "none" in said else [word for word in said if word][-1])
        return max(words, key=STRENGTH.index)

    # ---- paths

    def step(self, node: Node, name: str, cred: Credentials) -> Node:
        demand(isinstance(node, Folder), "ENOTDIR")
        assert isinstance(node, Folder)
        demand(node.allows(cred, PASS), "EACCES")
        self.make_home(node, name, cred)
        demand(name in node.entries, "ENOENT")
        return node.entries[name]

    def make_home(self, folder: Folder, name: str, cred: Credentials) -> None:
        """/home/<principal> is there when its principal asks, whatever the quotas."""
        if folder is self.home and name == cred.principal and name not in folder.entries:
            folder.entries[name] = Folder(name, name, 0o700, 0, 0)
            self.happened("create", folder.entries[name], f"/home/{name}")

    def lookup(self, process: Process, cred: Credentials, path: str) -> Node:
        if path == "/proc" or path.startswith("/proc/"):
            return self.view(process, cred, path)
        node: Node = self.root
        for name in parts_of(path):
            node = self.step(node, name, cred)
        return node

    def view(self, process: Process, cred: Credentials, path: str) -> Node:
        raise NotImplementedError

    def place(self, cred: Credentials, path: str) -> Place:
        """Where a name is, or would be."""
        parts = parts_of(path)
        demand(parts, "EISDIR")
        demand(parts[0] != "proc", "EROFS")
        node: Node = self.root
        for name in parts[:-1]:
            node = self.step(node, name, cred)
        demand(isinstance(node, Folder), "ENOTDIR")
        assert isinstance(node, Folder)
        demand(node.allows(cred, PASS), "EACCES")
        self.make_home(node, parts[-1], cred)
        return node, parts[-1]

    def demand_free(self, place: Place, cred: Credentials) -> None:
        folder, name = place
        demand(name not in folder.entries and not (folder is self.root and name == "proc"), "EEXIST")
        demand(folder.allows(cred, WRITE), "EACCES")

    def demand_removal(self, place: Place, cred: Credentials) -> None:
        folder, name = place
        demand(folder.allows(cred, WRITE), "EACCES")
        if folder.mode & STICKY:
            demand(folder.is_of(cred) or folder.entries[name].is_of(cred), "EPERM")

    def bind(self, place: Place, node: Node) -> None:
        folder, name = place
        is_first = not self.paths(node)
        folder.entries[name] = node
        folder.modified = self.now
        if is_first and isinstance(node, File) and folder.ttl_s and node.expires is None:
            self.expire(node, self.now + int(folder.ttl_s * SECOND))
        self.happened("create", node, self.path_of(place))

    def unbind(self, place: Place, detail: str = "") -> None:
        folder, name = place
        node = folder.entries[name]
        path = self.path_of(place)
        del folder.entries[name]
        folder.modified = self.now
        self.happened("delete", node, path, detail=detail)

    def path_of(self, place: Place) -> str:
        return f"{self.paths(place[0])[0].rstrip('/')}/{place[1]}"

    def group_for(self, folder: Folder, cred: Credentials) -> str:
        return folder.group if folder.mode & SETGID else cred.principal

    def happened(self, kind: str, node: Node, path: str, new_path: str = "", detail: str = "") -> None:
        """For those who watch."""

    def changed(self, kind: str, node: Node, detail: str = "") -> None:
        """Under all its names."""
        for path in self.paths(node):
            self.happened(kind, node, path, detail=detail)

    # ---- alarms

    def set_alarm(self, what: Any, when: int | None) -> None:
        self.alarms.pop(what, None)
        if when is not None:
            self.alarms[what] = (when, self.now)

    def expire(self, file: File, when: int | None) -> None:
        file.expires = when
        self.set_alarm(file, when)

    def expired(self, file: File) -> None:
        file.expires = None
        for path in self.paths(file):
            folder = self.lookup_any(path.rpartition("/")[0] or "/")
            self.unbind((folder, path.rpartition("/")[2]), "expired")

    def lookup_any(self, path: str) -> Any:
        node: Any = self.root
        for name in parts_of(path):
            node = node.entries[name]
        return node

    # ---- calls

    def mkdir(self, process: Process, cred: Credentials, path: str, mode: int = 0o777, parents: bool = False) -> None:
        demand(0 <= mode <= 0o3777, "EINVAL")
        parts = parts_of(path)
        if not parts:
            demand(parents, "EEXIST")
            return
        if parents and parts[0] != "proc":
            self._make_parents(parts[:-1], cred, 0o777 & ~process.umask | 0o300)
        place = self.place(cred, path)
        if not (parents and isinstance(place[0].entries.get(place[1]), Folder)):
            self._mkdir(place, cred, mode & ~process.umask)

    def _make_parents(self, parts: list[str], cred: Credentials, mode: int) -> None:
        """All that are missing, or none if there is no room for them and one more."""
        node: Node = self.root
        for depth, name in enumerate(parts):
            try:
                node = self.step(node, name, cred)
            except Refused as refused:
                if refused.reason != "ENOENT":
                    raise
                assert isinstance(node, Folder)
                self.demand_free((node, name), cred)
                self.demand_room(cred.principal, len(parts) - depth + 1)
                for missing in parts[depth:]:
                    node = self._mkdir((node, missing), cred, mode)  # type: ignore[arg-type]
                return

    def _mkdir(self, place: Place, cred: Credentials, mode: int) -> Folder:
        self.demand_free(place, cred)
        self.demand_room(cred.principal)
        above = place[0]
        folder = Folder(cred.principal, self.group_for(above, cred), mode | above.mode & SETGID, self.now, self.now)
        folder.ttl_s = above.ttl_s
        self.bind(place, folder)
        return folder

    def rmdir(self, process: Process, cred: Credentials, path: str) -> None:
        demand(parts_of(path), "EBUSY")
        place = self.place(cred, path)
        demand(place[1] in place[0].entries, "ENOENT")
        folder = place[0].entries[place[1]]
        demand(isinstance(folder, Folder), "ENOTDIR")
        assert isinstance(folder, Folder)
        demand(not folder.is_fixed, "EBUSY")
        self.demand_removal(place, cred)
        demand(not folder.entries, "ENOTEMPTY")
        self.unbind(place)

    def unlink(self, process: Process, cred: Credentials, path: str) -> None:
        place = self.place(cred, path)
        demand(place[1] in place[0].entries, "ENOENT")
        demand(isinstance(place[0].entries[place[1]], File), "EISDIR")
        self.demand_removal(place, cred)
        self.unbind(place)

    def rename(self, process: Process, cred: Credentials, old: str, new: str) -> None:
        source = self.place(cred, old)
        target = self.place(cred, new)
        demand(source[1] in source[0].entries, "ENOENT")
        node, victim = source[0].entries[source[1]], target[0].entries.get(target[1])
        self.demand_removal(source, cred)
        if victim is node:
            return
        demand(not (isinstance(node, Folder) and node.is_fixed), "EINVAL")
        if isinstance(node, Folder):
            demand(target[0] is not node and all(inside is not target[0] for _, inside in below(node, "")), "EINVAL")
        self._demand_replaceable(node, victim, target, cred)
        if victim is not None:
            self.unbind(target, "replaced")
        path = self.path_of(source)
        del source[0].entries[source[1]]
        target[0].entries[target[1]] = node
        source[0].modified = target[0].modified = self.now
        self.happened("move", node, path, self.path_of(target))

    def _demand_replaceable(self, node: Node, victim: Node | None, target: Place, cred: Credentials) -> None:
        if victim is None:
            demand(target[0].allows(cred, WRITE), "EACCES")
            return
        if isinstance(victim, Folder):
            demand(isinstance(node, Folder), "EISDIR")
            demand(not victim.entries, "ENOTEMPTY")
        demand(isinstance(victim, Folder) or isinstance(node, File), "ENOTDIR")
        self.demand_removal(target, cred)
        demand(not (isinstance(victim, Folder) and victim.is_fixed), "EINVAL")

    # ---- rights and attributes

    def target(self, process: Process, cred: Credentials, fd: int | None, path: str | None) -> Node:
        demand((fd is None) != (path is None), "EINVAL")
        if fd is not None:
            return process.get(fd, cred).file
        assert path is not None
        return self.lookup(process, cred, path)

    def owned(self, process: Process, cred: Credentials, fd: int | None, path: str | None) -> Node:
        node = self.target(process, cred, fd, path)
        demand(not isinstance(node, View), "EROFS")
        demand(node.is_of(cred), "EPERM")
        return node

    def chmod(self, process: Process, cred: Credentials, mode: int, fd: int | None = None, path: str | None = None) -> None:
        node = self.owned(process, cred, fd, path)
        demand(0 <= mode <= (0o3777 if isinstance(node, Folder) else 0o777), "EINVAL")
        in_group = cred.is_admin or node.group == cred.principal or node.group in cred.groups
        node.mode = mode if in_group else mode & ~SETGID
        self.changed("attrib", node)

    def chown(
        self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None, owner: str | None = None,
        group: str | None = None,
    ) -> None:  # fmt: skip
        node = self.owned(process, cred, fd, path)
        demand(owner != "" and group != "", "EINVAL")
        demand(cred.is_admin or owner in (None, node.owner), "EPERM")
        demand(cred.is_admin or group in (None, node.group, cred.principal, *cred.groups), "EPERM")
        if owner not in (None, node.owner):
            self.demand_owned(owner)
        node.owner = owner or node.owner
        node.group = group or node.group
        self.changed("attrib", node)

    def umask(self, process: Process, cred: Credentials, mask: int | None = None) -> dict[str, Any]:
        before = process.umask
        if mask is not None:
            demand(process.kind != "edge" and 0 <= mask <= 0o777, "EINVAL")
            process.umask = mask
        return {"mask": before}

    def setxattr(
        self, process: Process, cred: Credentials, name: str, value: str, fd: int | None = None, path: str | None = None,
        create: bool = False, replace: bool = False,
    ) -> None:  # fmt: skip
        node = self._attributes(process, cred, fd, path, WRITE)
        demand(0 < len(name) <= 255 and not (create and replace), "EINVAL")
        demand(not (create and name in node.xattrs), "EEXIST")
        demand(not (replace and name not in node.xattrs), "ENODATA")
        node.xattrs[name] = value
        self.changed("attrib", node, name)

    def getxattr(self, process: Process, cred: Credentials, name: str, fd: int | None = None, path: str | None = None) -> Any:
        node = self._attributes(process, cred, fd, path, READ)
        demand(name in node.xattrs, "ENODATA")
        return {"attributes": {name: node.xattrs[name]}}

    def listxattr(self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None) -> Any:
        return {"attributes": self._attributes(process, cred, fd, path, READ).xattrs}

    def removexattr(self, process: Process, cred: Credentials, name: str, fd: int | None = None, path: str | None = None) -> None:
        node = self._attributes(process, cred, fd, path, WRITE)
        demand(name in node.xattrs, "ENODATA")
        del node.xattrs[name]
        self.changed("attrib", node, name)

    def _attributes(self, process: Process, cred: Credentials, fd: int | None, path: str | None, right: int) -> Node:
        node = self.target(process, cred, fd, path)
        if fd is None:
            demand(right == READ or not isinstance(node, View), "EROFS")
            demand(node.allows(cred, right), "EACCES")
            demand(right == READ or not node.mode & STICKY or node.is_of(cred), "EPERM")
        elif right == WRITE:
            process.get_writable(fd, cred)
        return node

    def chattr(
        self, process: Process, cred: Credentials, fd: int | None = None, path: str | None = None, durable: str | None = None,
        expires_s: float | None = None, ttl_s: float | None = None,
    ) -> None:  # fmt: skip
        node = self.owned(process, cred, fd, path)
        if isinstance(node, File):
            demand(durable is None and ttl_s is None, "EINVAL")
            if expires_s is not None:
                demand(expires_s >= 0, "EINVAL")
                self.expire(node, self.now + int(expires_s * SECOND) if expires_s else None)
                self.changed("attrib", node)
            return
        assert isinstance(node, Folder)
        demand(expires_s is None and durable in (None, "", *STRENGTH) and not (durable == "" and node is self.root), "EINVAL")
        demand(durable not in STRENGTH[1:] or node is self.root or self.durable(node) != "none", "EINVAL")
        demand(ttl_s is None or ttl_s >= 0, "EINVAL")
        node.durable = node.durable if durable is None else durable
        node.ttl_s = node.ttl_s if ttl_s is None else ttl_s
        self.changed("attrib", node, "durable" if durable is not None else "ttl_s")
