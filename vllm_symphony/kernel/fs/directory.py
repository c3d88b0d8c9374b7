"""A directory: names of files and of directories (kernel/fs/directory.py).

    /  (ino 1, root, 1777)          made at boot, never moved or removed: `FIXED`
    +-- tmp/   (1777, kept nowhere)
    +-- home/  (755)   +-- ann/ (700, ann's)        made when ann first names it
    +-- kb/    ...

Only the kernel knows directories; the device never hears of one. A directory has one name; the root has none.
"""

from __future__ import annotations

from vllm_symphony.abi.record import ROOT_INO
from vllm_symphony.abi.types import Credentials, Ino
from vllm_symphony.errors import NotOwner
from vllm_symphony.kernel.fs.node import MAY_PASS, MAY_READ, MAY_WRITE, SETGID, STICKY, Node

TMP_INO, HOME_INO = Ino(2), Ino(3)
FIXED = (ROOT_INO, TMP_INO, HOME_INO)
DURABLE = ("none", "tokens", "pages")  # from weak to strong


class Directory(Node):
    """One directory. `durable`: how files in it are kept, "" = as above; `ttl_s`: after how long they expire, 0 = never."""

    __slots__ = ("durable", "entries", "ttl_s")
    kind = "dir"

    def __init__(self, ino: Ino, owner: str, group: str, mode: int, now_ns: int) -> None:
        super().__init__(ino, owner, group, mode, now_ns)
        self.entries: dict[str, Node] = {}
        self.durable = ""
        self.ttl_s = 0.0

    @property
    def parent(self) -> Directory | None:
        """Where it is; None: it is the root, or was removed."""
        for directory, _ in self.names:
            return directory
        return None

    def visible_to(self, cred: Credentials) -> bool:
        """A directory that one may look into, or pass."""
        return self.owned_by(cred) or self.allows(cred, MAY_READ | MAY_PASS)

    def group_for(self, cred: Credentials) -> str:
        """The group of what the caller makes in it."""
        return self.group if self.mode & SETGID else cred.principal

    def is_below(self, other: Directory) -> bool:
        """Whether it is `other`, or in it, however deep."""
        at: Directory | None = self
        while at is not None and at is not other:
            at = at.parent
        return at is other

    def demand_removal(self, node: Node, cred: Credentials, path: str) -> None:
        """Check that the caller may take `node`'s name out of it.

        Raises:
            AccessDenied: it may not write the directory.
            NotOwner: the directory is sticky, and neither it nor the node is the caller's.
        """
        self.demand(cred, MAY_WRITE, f"the directory of {path}")
        if self.mode & STICKY and not self.owned_by(cred) and not node.owned_by(cred):
            raise NotOwner(f"{path} is {node.owner}'s, and its directory is sticky", path=path)
