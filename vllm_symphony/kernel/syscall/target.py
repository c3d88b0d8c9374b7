"""What a call speaks of, by fd or by path, and how it is shown (kernel/syscall/target.py).

fd 3 ------------------> the open file; an fd carries its rights
/kb/doc1 --------------> a file or a directory; rights are checked on the way and at the end
/proc/12/fd/3 ---------> that open file, if the caller may see process 12 (kernel/fs/proc.py)
"""

from __future__ import annotations

from vllm_symphony.abi.types import Credentials, FileStat
from vllm_symphony.errors import AccessDenied, InvalidArgument, IsDirectory, ReadOnly
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs import proc
from vllm_symphony.kernel.fs.directory import Directory
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.node import SYSTEM, Node
from vllm_symphony.kernel.machine import Machine


def node(m: Machine, call: Call, fd: int | None, path: str | None, *, looking: bool = False) -> tuple[Node, str | None]:
    """What exactly one of fd and path speaks of, and the path. Rights on it are not checked. `looking`: as of `Tree.lookup`.

    Raises:
        BadFile, NoSuchFile, NotDirectory, AccessDenied: there is nothing, or it cannot be reached.
    """
    if (fd is None) == (path is None):
        raise InvalidArgument("give either fd or path")
    if fd is not None:
        return call.process.fds.get(fd, call.cred).inode, None
    assert path is not None
    return at(m, call, path, looking=looking), path


def at(m: Machine, call: Call, path: str, *, looking: bool = False) -> Node:
    """What is at the path, below /proc too. Raises as `node`."""
    return proc.find(m, call, path) if proc.is_in_proc(path) else m.files.lookup(path, call.cred, looking=looking)


def file(m: Machine, call: Call, fd: int | None, path: str | None, right: int) -> tuple[Inode, str | None]:
    """The file, if the caller has the right on it; by an fd it has what it was opened for. Raises IsDirectory too."""
    found, path = node(m, call, fd, path)
    if isinstance(found, proc.ViewText):
        raise InvalidArgument(f"{path} is text: read it by its path", path=path or "")
    if not isinstance(found, Inode):
        raise IsDirectory(f"{path} is a directory", path=path or "")
    if path is not None:
        found.demand(call.cred, right, path)
    return found, path


def owned(m: Machine, call: Call, fd: int | None, path: str | None) -> tuple[Node, str | None]:
    """What the caller owns and may change. Raises NotOwner, and ReadOnly below /proc."""
    found, path = node(m, call, fd, path)
    demand_changeable(found, path)
    found.demand_owner(call.cred, path if path is not None else f"fd {fd}")
    return found, path


def demand_changeable(found: Node, path: str | None) -> None:
    """Raises ReadOnly for a view of the kernel."""
    if isinstance(found, proc.View):
        raise ReadOnly(f"{path} is a view of the kernel, nothing can be changed there", path=path or "")


def demand_visible(found: Node, call: Call, path: str) -> None:
    """Raises AccessDenied for what lists would not show."""
    if not found.visible_to(call.cred):
        raise AccessDenied(f"{call.cred.principal} may not see {path} (mode {found.mode:#o}, owner {found.owner})", path=path)


def shown(m: Machine, found: Node, path: str | None = None, cred: Credentials = SYSTEM) -> FileStat:
    """As `stat` and lists show it, under the name by which it was found; else under one that `cred` may name."""
    shift = m.offset_ns
    if path is None:
        path = m.files.path_of(found, cred)
    if not isinstance(found, Inode):
        durable, ttl_s = (found.durable, found.ttl_s) if isinstance(found, Directory) else ("none", 0.0)
        return FileStat(
            ino=found.ino, path=path, nlink=1, owner=found.owner, mode=found.mode, length=0, frontier=0, num_pages=0,
            fidelity="exact", num_open=0, busy=False, created_ns=found.created_ns + shift, modified_ns=found.modified_ns + shift,
            kind=found.kind, group=found.group, durable=durable, ttl_s=ttl_s,
        )  # fmt: skip
    expires_ns = None if found.expires_ns is None else found.expires_ns + shift
    where = m.residency(found.ino)
    return FileStat(
        ino=found.ino,
        path=path,
        nlink=len(found.names),
        owner=found.owner,
        mode=found.mode,
        length=found.length,
        frontier=found.frontier,
        num_pages=found.num_pages(m.model.page_size),
        fidelity=found.fidelity,
        num_open=found.num_open,
        busy=found.writer is not None,
        created_ns=found.created_ns + shift,
        modified_ns=found.modified_ns + shift,
        kind=found.kind,
        group=found.group,
        device_pages=where.device_pages,
        host_pages=where.host_pages,
        disk_pages=where.disk_pages,
        charge=m.account.charge(found),
        pinned=found.pinned,
        durable=m.files.durable(found),
        stale=found.stale,
        locked=found.lock.kind if found.lock is not None else "",
        expires_ns=expires_ns,
    )
