"""Calls on files that never wait for the device (kernel/syscall/file.py).

    open close dup fork truncate append read link unlink rename stat list

All are answered at once from identity; their effects reach the engine in order, before any later job on the file. Rights are
checked when a name is followed (open, read and stat by path, list, unlink, rename, link); an fd carries its rights. `at=` makes a
change conditional.
"""

from __future__ import annotations

from vllm_symphony.abi.calls import (
    Append,
    Done,
    FdArgs,
    FdResult,
    LengthResult,
    Link,
    List,
    ListResult,
    Open,
    PathArgs,
    Read,
    ReadResult,
    Rename,
    Stat,
    StatResult,
    Truncate,
)  # fmt: skip
from vllm_symphony.abi.types import Credentials, OpenFlags, pack_tokens
from vllm_symphony.errors import AccessDenied, FileExists, InvalidArgument, NotOwner
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.fs.inode import MAY_READ, MAY_WRITE, Inode
from vllm_symphony.kernel.fs.path import demand_name
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument

RDWR, CREAT, EXCL, TRUNC, TMPFILE = (
    int(f) for f in (OpenFlags.RDWR, OpenFlags.CREAT, OpenFlags.EXCL, OpenFlags.TRUNC, OpenFlags.TMPFILE)
)
ALL_FLAGS = RDWR | CREAT | EXCL | TRUNC | TMPFILE


def open_(m: Machine, call: Call, a: Open) -> FdResult:
    """An fd for the file of that name, or for a new one."""
    flags = int(a.flags)
    if flags & ~ALL_FLAGS:
        raise InvalidArgument(f"unknown flags: {flags & ~ALL_FLAGS}", flags=flags)
    if not 0 <= a.mode <= 0o777:
        raise InvalidArgument(f"mode must be in 0..0o777, not {a.mode:#o}", mode=a.mode)
    tokens = argument.tokens(a.tokens, m.model.vocab_size, context=m.model.max_positions) if a.tokens is not None else []
    call.process.fds.demand_room()
    if a.path is None:
        return _open_anonymous(m, call, a, tokens)

    demand_name(a.path, m.limits.path_bytes)
    if flags & TMPFILE:
        raise InvalidArgument("TMPFILE makes a file without a name; leave out the path", path=a.path)
    if flags & EXCL and not flags & CREAT:
        raise InvalidArgument("EXCL needs CREAT", flags=flags)
    if flags & TRUNC and not flags & RDWR:
        raise InvalidArgument("TRUNC needs RDWR", flags=flags)
    inode = m.files.names.get(a.path)
    if inode is not None:
        return _open_existing(m, call, a, inode)
    if not flags & CREAT:
        if a.tokens is not None:
            raise InvalidArgument("tokens are for a new file: add CREAT, or leave out the path", path=a.path)
        m.files.lookup(a.path)
    inode = m.files.create(tokens, call.cred.principal, a.mode, call.start_ns)
    m.files.bind(a.path, inode)
    call.process.tokens_in += len(tokens)
    return _fd(call, inode, bool(flags & RDWR))


def _open_anonymous(m: Machine, call: Call, a: Open, tokens: list[int]) -> FdResult:
    """A new file that lives as long as its fds; always open for writing, for nobody else can."""
    if a.tokens is None and not a.flags & TMPFILE:
        raise InvalidArgument("open needs a path, tokens or TMPFILE")
    if a.flags & (CREAT | EXCL | TRUNC):
        raise InvalidArgument("CREAT, EXCL and TRUNC need a path", flags=int(a.flags))
    call.process.tokens_in += len(tokens)
    return _fd(call, m.files.create(tokens, call.cred.principal, a.mode, call.start_ns), True)


def _open_existing(m: Machine, call: Call, a: Open, inode: Inode) -> FdResult:
    if a.flags & CREAT and (a.flags & EXCL or a.tokens is not None):
        raise FileExists(f"the name is taken: {a.path}", path=str(a.path))
    if a.tokens is not None:
        raise InvalidArgument("tokens are for a new file, and this one exists", path=str(a.path))
    _demand_right(inode, call.cred, MAY_READ, a.path)
    if a.flags & RDWR:
        _demand_right(inode, call.cred, MAY_WRITE, a.path)
    if a.flags & TRUNC:
        inode.demand_quiet()
        m.files.cut(inode, 0, call.start_ns)
    return _fd(call, inode, bool(a.flags & RDWR))


def _fd(call: Call, inode: Inode, writable: bool) -> FdResult:
    fd = call.process.fds.add(OpenFile(inode, writable, call.cred.principal))
    return FdResult(fd, inode.ino, inode.length)


def _demand_right(inode: Inode, cred: Credentials, right: int, path: str | None) -> None:
    if not inode.allows(cred, right):
        word = "write" if right == MAY_WRITE else "read"
        raise AccessDenied(f"{cred.principal} may not {word} {path} (mode {inode.mode:#o}, owner {inode.owner})", path=path or "")


def _demand_owner(inode: Inode, cred: Credentials, path: str) -> None:
    if inode.owner != cred.principal and not cred.is_admin:
        raise NotOwner(f"{path} is {inode.owner}'s", path=path)


def close(m: Machine, call: Call, a: FdArgs) -> Done:
    """Forget the fd; calls of this process that run through it end with EINTR."""
    fds = call.process.fds
    inode = fds.get(a.fd, call.cred).inode
    if inode.is_busy:
        for other in list(call.process.calls.values()):
            if other.pending is not None:
                other.pending.closed(m, a.fd, call.start_ns)
    m.files.release(fds.remove(a.fd))
    return Done()


def dup(m: Machine, call: Call, a: FdArgs) -> FdResult:
    """A second fd for the same file, with the same rights."""
    fds = call.process.fds
    file = fds.get(a.fd, call.cred)
    fds.demand_room()
    return FdResult(fds.add(file.again()), file.inode.ino, file.inode.length)


def fork(m: Machine, call: Call, a: FdArgs) -> FdResult:
    """A new anonymous file with the same tokens; a busy source gives what it holds now."""
    fds = call.process.fds
    source = fds.get(a.fd, call.cred)
    fds.demand_room()
    return _fd(call, m.files.clone(source, call.cred.principal, call.start_ns), True)


def truncate(m: Machine, call: Call, a: Truncate) -> Done:
    """Forget tokens from `length` on, and what sampling remembers of them."""
    inode = call.process.fds.get_writable(a.fd, call.cred).inode
    argument.demand_at(a.at, inode)
    if not 0 <= a.length <= inode.length:
        raise InvalidArgument(f"length must be in 0..{inode.length}, not {a.length}", length=inode.length)
    inode.demand_quiet()
    m.files.cut(inode, a.length, call.start_ns)
    return Done()


def append(m: Machine, call: Call, a: Append) -> LengthResult:
    """More tokens, computed when somebody asks for what follows them."""
    inode = call.process.fds.get_writable(a.fd, call.cred).inode
    argument.demand_at(a.at, inode)
    tokens = argument.tokens(a.tokens, m.model.vocab_size, context=m.model.max_positions)
    start = argument.start_position(a.start, inode, len(tokens), m.model.max_positions)
    inode.demand_quiet()
    m.files.extend(inode, tokens, start, call.start_ns)
    call.process.tokens_in += len(tokens)
    return LengthResult(inode.length)


def read(m: Machine, call: Call, a: Read) -> ReadResult:
    """Tokens and their positions; a range past the end gives what is there."""
    inode, _ = _named(m, call, a.fd, a.path, MAY_READ)
    if a.offset < 0 or (a.count is not None and a.count < 0):
        raise InvalidArgument(f"offset and count must be 0 or more, not {a.offset} and {a.count}")
    offset = min(a.offset, inode.length)
    stop = inode.length if a.count is None else min(offset + a.count, inode.length)
    return ReadResult(pack_tokens(inode.tokens[offset:stop]), pack_tokens(inode.positions(offset, stop)), inode.length)


def link(m: Machine, call: Call, a: Link) -> Done:
    """Name the open file."""
    inode = call.process.fds.get(a.fd, call.cred).inode
    demand_name(a.path, m.limits.path_bytes)
    _demand_owner(inode, call.cred, a.path)
    m.files.bind(a.path, inode)
    return Done()


def unlink(m: Machine, call: Call, a: PathArgs) -> Done:
    """Take a name away; who has the file open keeps it."""
    demand_name(a.path, m.limits.path_bytes)
    _demand_owner(m.files.lookup(a.path), call.cred, a.path)
    m.files.unbind(a.path)
    return Done()


def rename(m: Machine, call: Call, a: Rename) -> Done:
    """Move a name, replacing what `new` stood for."""
    demand_name(a.old, m.limits.path_bytes)
    demand_name(a.new, m.limits.path_bytes)
    _demand_owner(m.files.lookup(a.old), call.cred, a.old)
    victim = m.files.names.get(a.new)
    if victim is not None:
        _demand_owner(victim, call.cred, a.new)
    m.files.rebind(a.old, a.new)
    return Done()


def stat(m: Machine, call: Call, a: Stat) -> StatResult:
    """A file by fd or by name."""
    inode, path = _named(m, call, a.fd, a.path, MAY_READ)
    return StatResult(inode.stat(m.model.page_size, m.offset_ns, path))


def list_(m: Machine, call: Call, a: List) -> ListResult:
    """Names that begin with `prefix` and that the caller may read or owns, in order."""
    cred = call.cred
    found = [
        (path, inode)
        for path, inode in m.files.names.items()
        if path.startswith(a.prefix) and (inode.owner == cred.principal or inode.allows(cred, MAY_READ))
    ]
    found.sort(key=lambda pair: pair[0])
    return ListResult(tuple(inode.stat(m.model.page_size, m.offset_ns, path) for path, inode in found))


def _named(m: Machine, call: Call, fd: int | None, path: str | None, right: int) -> tuple[Inode, str | None]:
    """The file that exactly one of fd and path speaks of."""
    if (fd is None) == (path is None):
        raise InvalidArgument("give either fd or path")
    if fd is not None:
        return call.process.fds.get(fd, call.cred).inode, None
    assert path is not None
    demand_name(path, m.limits.path_bytes)
    inode = m.files.lookup(path)
    _demand_right(inode, call.cred, right, path)
    return inode, path
