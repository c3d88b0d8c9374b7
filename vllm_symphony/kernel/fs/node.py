"""What files and directories have in common: whose they are, who may do what, and by which names (kernel/fs/node.py).

    names  {(directory, "doc1"), (directory, "also")}       paths are derived from the tree, never stored
    mode    0o640:  owner rw-   group r--   other ---         the first class that the caller is in decides, as in POSIX

A principal is in the group of its own name, and in those of its credentials. Scope admin passes every check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vllm_symphony.abi.types import Credentials, Ino
from vllm_symphony.errors import AccessDenied, NotOwner
from vllm_symphony.kernel.timer import Timer

if TYPE_CHECKING:
    from vllm_symphony.kernel.fs.directory import Directory

MAY_READ, MAY_WRITE, MAY_PASS = 4, 2, 1
SETGID, STICKY = 0o2000, 0o1000
SYSTEM = Credentials("root", scopes=("admin",))  # the kernel itself
_WORDS = {MAY_READ: "read", MAY_WRITE: "write", MAY_PASS: "pass through"}


def is_in(cred: Credentials, group: str) -> bool:
    """Whether the caller is in the group."""
    return group == cred.principal or group in cred.groups


class Node:
    """One file or directory. `names` in order of linking; `expires_ns` is the kernel's clock, `expiry` its alarm; `dirty`: the
    store has not heard of the last change."""

    __slots__ = (
        "created_ns", "dirty", "expires_ns", "expiry", "group", "ino", "mode", "modified_ns", "names", "owner", "xattrs",
    )  # fmt: skip
    kind: ClassVar[str]

    def __init__(self, ino: Ino, owner: str, group: str, mode: int, now_ns: int) -> None:
        self.ino = ino
        self.owner = owner
        self.group = group
        self.mode = mode
        self.created_ns = self.modified_ns = now_ns
        self.names: dict[tuple[Directory, str], None] = {}
        self.xattrs: dict[str, str] = {}
        self.expires_ns: int | None = None
        self.expiry: Timer | None = None
        self.dirty = False

    def owned_by(self, cred: Credentials) -> bool:
        """Whether the caller may do what is the owner's."""
        return cred.principal == self.owner or cred.is_admin

    def allows(self, cred: Credentials, right: int) -> bool:
        """Whether the caller has the right (or one of several) by the mode."""
        if cred.principal == self.owner:
            bits = self.mode >> 6
        elif is_in(cred, self.group):
            bits = self.mode >> 3
        else:
            bits = self.mode
        return bool(bits & right) or cred.is_admin

    def visible_to(self, cred: Credentials) -> bool:
        """Whether lists and `stat` show it: the owner always sees it, others if they may read it."""
        return self.owned_by(cred) or self.allows(cred, MAY_READ)

    def demand(self, cred: Credentials, right: int, path: str) -> None:
        """Raises AccessDenied without the right; `path` is how the caller named it."""
        if not self.allows(cred, right):
            whose = f"mode {self.mode:#o}, owner {self.owner}, group {self.group}"
            raise AccessDenied(f"{cred.principal} may not {_WORDS[right]} {path} ({whose})", path=path)

    def demand_owner(self, cred: Credentials, path: str) -> None:
        """Raises NotOwner for all but the owner and admin."""
        if not self.owned_by(cred):
            raise NotOwner(f"{path} is {self.owner}'s", path=path)
