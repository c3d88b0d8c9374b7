"""The tree of names (kernel/fs/tree.py): from paths to nodes and back, with the rights that this takes.

    /  --home--> Directory 3 --ann--> Directory 4 --draft--> Inode 7
       --kb----> Directory 9 --doc1-> Inode 7                           a file may have many names, a directory has one

Who follows a path must be allowed to pass each directory on it, and to name it at all (`Credentials.paths`, kernel/fs/path.py);
that is checked here, so that no call can forget it. Who may touch what a name stands for is the calls' business. `changed` is the
one way by which watchers and the store hear of a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vllm_symphony.abi.record import ROOT_INO
from vllm_symphony.abi.types import Credentials, Ino
from vllm_symphony.errors import IsDirectory, NoSuchFile, NotDirectory, ReadOnly
from vllm_symphony.kernel.fs.account import Account
from vllm_symphony.kernel.fs.directory import DURABLE, FIXED, HOME_INO, TMP_INO, Directory
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.node import MAY_PASS, MAY_READ, STICKY, SYSTEM, Node
from vllm_symphony.kernel.fs.path import PROC, demand_within, is_within, leads_within, parts_of
from vllm_symphony.kernel.limits import Limits

Change = Callable[[Node, str, str, str, str], None]  # node, kind as in FileEvent, path, new_path, detail


class Tree:
    """Directories and what is in them. `next_ino`: the number of the next node, never used before."""

    __slots__ = ("_limits", "account", "directories", "home", "next_ino", "on_change", "root")

    def __init__(self, limits: Limits, account: Account, now_ns: int) -> None:
        self._limits = limits
        self.account = account
        self.directories: dict[Ino, Directory] = {}
        self.on_change: list[Change] = []
        self.next_ino = max(FIXED) + 1
        owner = SYSTEM.principal
        self.root = self._directory(ROOT_INO, owner, owner, STICKY | 0o777, now_ns)
        self.root.durable = "tokens"
        self.home = self._directory(HOME_INO, owner, owner, 0o755, now_ns)
        tmp = self._directory(TMP_INO, owner, owner, STICKY | 0o777, now_ns)
        tmp.durable = "none"
        for name, directory in (("home", self.home), ("tmp", tmp)):
            self._attach(self.root, name, directory)

    # ---- from a path

    def lookup(self, path: str, cred: Credentials, *, looking: bool = False) -> Node:
        """What is at the path. `looking`: it may be a directory on the way to the caller's paths.

        Raises:
            NoSuchFile, NotDirectory: there is no such thing.
            AccessDenied: the caller may not pass a directory of the path, or not name it.
        """
        parts = self.parts(path)
        demand_within(cred, path, looking=looking)
        node: Node = self.root
        for name in parts:
            node = self._step(node, name, cred, path)
        if not isinstance(node, Directory):
            demand_within(cred, path)
        return node

    def lookup_file(self, path: str, cred: Credentials) -> Inode:
        """The file at the path. Raises IsDirectory, and what `lookup` raises."""
        node = self.lookup(path, cred)
        if not isinstance(node, Inode):
            raise IsDirectory(f"{path} is a directory", path=path)
        return node

    def lookup_directory(self, path: str, cred: Credentials) -> Directory:
        """The directory at the path. Raises NotDirectory, and what `lookup` raises."""
        node = self.lookup(path, cred)
        if not isinstance(node, Directory):
            raise NotDirectory(f"{path} is a file", path=path)
        return node

    def place(self, path: str, cred: Credentials) -> tuple[Directory, str]:
        """The directory and the name in it that a path speaks of; the name may be free.

        Raises:
            IsDirectory: it is the root.
            ReadOnly: it is /proc, or below.
            And what `lookup` raises, of the directory.
        """
        parts = self.parts(path)
        demand_within(cred, path)
        if not parts:
            raise IsDirectory("/ is the root directory", path=path)
        if parts[0] == PROC:
            raise ReadOnly(f"/{PROC} is a view of the kernel, nothing can be changed there: {path}", path=path)
        node: Node = self.root
        for name in parts[:-1]:
            node = self._step(node, name, cred, path)
        if not isinstance(node, Directory):
            raise NotDirectory(f"no directory holds {path}: a file is in the way", path=path)
        node.demand(cred, MAY_PASS, f"the directory of {path}")
        self._make_home(node, parts[-1], cred)
        return node, parts[-1]

    def entry(self, directory: Directory, name: str) -> Node:
        """What the name stands for. Raises NoSuchFile."""
        node = directory.entries.get(name)
        if node is None:
            path = self.path_in(directory, name)
            raise NoSuchFile(f"no such file: {path} ({len(directory.entries)} names there)", path=path)
        return node

    def parts(self, path: str) -> list[str]:
        """The names that the path is made of. Raises NameTooLong, InvalidArgument."""
        return parts_of(path, self._limits.name_bytes, self._limits.path_bytes)

    def _step(self, node: Node, name: str, cred: Credentials, path: str) -> Node:
        if not isinstance(node, Directory):
            raise NotDirectory(f"no directory holds {name!r} of {path}: a file is in the way", path=path)
        node.demand(cred, MAY_PASS, f"a directory of {path}")
        self._make_home(node, name, cred)
        found = node.entries.get(name)
        if found is None:
            raise NoSuchFile(f"no such file: {path} (no {name!r} among {len(node.entries)} names)", path=path)
        return found

    def _make_home(self, directory: Directory, name: str, cred: Credentials) -> None:
        """/home/<principal> is there when its principal asks for it, and as old as /home: nobody saw that it was not."""
        if directory is self.home and name == cred.principal and name not in directory.entries:
            home = self._directory(self.take_ino(), name, name, 0o700, directory.created_ns)
            self._attach(directory, name, home)
            self.changed(home, "create", self.path_in(directory, name))

    # ---- to a path

    def path_of(self, node: Node, cred: Credentials = SYSTEM) -> str | None:
        """Its first path that the caller may name; None: there is none."""
        paths = (self.path_in(directory, name) for directory, name in node.names)
        return "/" if node is self.root else next((path for path in paths if is_within(cred, path)), None)

    def path_in(self, directory: Directory, name: str) -> str:
        """The path of a name in a directory."""
        parts = [name]
        while directory is not self.root:
            (parent, name), *_ = directory.names
            parts.append(name)
            directory = parent
        return "/" + "/".join(reversed(parts))

    # ---- what is there

    def below(
        self, directory: Directory, path: str = "", cred: Credentials = SYSTEM, *, deep: bool = True
    ) -> Iterator[tuple[str, Node]]:
        """What is in the directory at `path` (`deep`: and below it), with its path: in order of name, a directory before what is in
        it. Of what the caller may see only."""
        stack: list[tuple[str, Node]] = [(path.rstrip("/"), directory)]
        while stack:
            at, node = stack.pop()
            if node is not directory:
                yield at, node
                if not deep:
                    continue
            if isinstance(node, Directory) and node.allows(cred, MAY_READ) and node.allows(cred, MAY_PASS):
                entries = node.entries
                inside = ((f"{at}/{name}", entries[name]) for name in sorted(entries, reverse=True))
                stack += [pair for pair in inside if pair[1].visible_to(cred) and shows(cred, *pair)]

    def visible(self, cred: Credentials, prefix: str) -> Iterator[tuple[str, Node]]:
        """What the caller may see and whose path begins with `prefix`, which need not end with a name."""
        directory, path = self.root, ""
        for name in prefix.split("/")[1:-1]:
            deeper = directory.entries.get(name)
            if not isinstance(deeper, Directory) or not directory.allows(cred, MAY_PASS):
                return
            directory, path = deeper, f"{path}/{name}"
        for found, node in self.below(directory, path, cred):
            if found.startswith(prefix):
                yield found, node

    def durable(self, node: Node) -> str:
        """How it is kept: by the word of its directory, of several names the strongest."""
        return max((self.durable_in(directory) for directory, _ in node.names), key=DURABLE.index, default="none")

    def durable_in(self, directory: Directory) -> str:
        """How files in the directory are kept: by its own word, or the next above. Below one that keeps none nothing is kept."""
        word = ""
        at: Directory | None = directory
        while at is not None:
            if at.durable == "none":
                return "none"
            word = word or at.durable
            at = at.parent
        return word or "none"

    def changed(self, node: Node, kind: str, path: str = "", new_path: str = "", detail: str = "") -> None:
        """Something with a name has changed: tell watchers and the store. Without `path`: under all its names."""
        if node.names or path or node is self.root:
            for tell in self.on_change:
                tell(node, kind, path, new_path, detail)

    def _directory(self, ino: Ino, owner: str, group: str, mode: int, now_ns: int) -> Directory:
        directory = self.directories[ino] = Directory(ino, owner, group, mode, now_ns)
        self.account.enter(directory)
        return directory

    def take_ino(self) -> Ino:
        """A number that was never used."""
        self.next_ino += 1
        return Ino(self.next_ino - 1)

    def _attach(self, directory: Directory, name: str, node: Node) -> None:
        directory.entries[name] = node
        node.names[directory, name] = None

    def _detach(self, directory: Directory, name: str) -> Node:
        node = directory.entries.pop(name)
        del node.names[directory, name]
        return node


def shows(cred: Credentials, path: str, node: Node) -> bool:
    """Whether lists show it to who is bound to some paths."""
    return cred.paths is None or (leads_within if isinstance(node, Directory) else is_within)(cred, path)
