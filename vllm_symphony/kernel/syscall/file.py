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
from vllm_symphony.abi.types import OpenFlags, pack_tokens
from vllm_symphony.errors import FileExists, InvalidArgument, IsDirectory, NoSuchFile
from vllm_symphony.kernel import overrun
from vllm_symphony.kernel.budget import Payer
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs import proc
from vllm_symphony.kernel.fs.directory import Directory
from vllm_symphony.kernel.fs.fd import OpenFile
from vllm_symphony.kernel.fs.inode import EXACT, Inode
from vllm_symphony.kernel.fs.node import MAY_READ, MAY_WRITE, STICKY
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument, target

RDWR, CREAT, EXCL, TRUNC, TMPFILE = (
    int(f) for f in (OpenFlags.RDWR, OpenFlags.CREAT, OpenFlags.EXCL, OpenFlags.TRUNC, OpenFlags.TMPFILE)
)
ALL_FLAGS = RDWR | CREAT | EXCL | TRUNC | TMPFILE
DIRECTORIES = 2  # the minor version of the ABI that brought them


def open_(m: Machine, call: Call, a: Open) -> FdResult:
    """An fd for the file of that name, or for a new one."""
    flags = int(a.flags)
    if flags & ~ALL_FLAGS:
        raise InvalidArgument(f"unknown flags: {flags & ~ALL_FLAGS}", flags=flags)
    if not 0 <= a.mode <= 0o777:
        raise InvalidArgument(f"mode must be in 0..0o777, not {a.mode:#o}", mode=a.mode)
    if a.require not in ("", EXACT):
        raise InvalidArgument(f"require must be {EXACT!r} or empty, not {a.require!r}")
    tokens = argument.tokens(a.tokens, m.model.vocab_size, context=m.model.max_positions) if a.tokens is not None else []
    call.process.fds.demand_room()
    if tokens:
        overrun.demand_tokens(m, call, len(tokens))
    if a.path is None:
        return _open_anonymous(m, call, a, tokens)

    if flags & TMPFILE:
        raise InvalidArgument("TMPFILE makes a file without a name; leave out the path", path=a.path)
    if flags & EXCL and not flags & CREAT:
        raise InvalidArgument("EXCL needs CREAT", flags=flags)
    if flags & TRUNC and not flags & RDWR:
        raise InvalidArgument("TRUNC needs RDWR", flags=flags)
    if not flags & CREAT:
        return _open_existing(m, call, a, _found(m, call, a))
    directory, name = place(m, call, a.path)
    found = directory.entries.get(name)
    if found is not None:
        if flags & EXCL:
            raise FileExists(f"the name is taken: {a.path}", path=a.path)
        if not isinstance(found, Inode):
            raise IsDirectory(f"{a.path} is a directory", path=a.path)
        return _open_existing(m, call, a, found)
    return _open_new(m, call, a, tokens, directory, name)


def _found(m: Machine, call: Call, a: Open) -> Inode:
    """The file that must be there."""
    assert a.path is not None
    try:
        return target.file(m, call, None, a.path, MAY_READ)[0]
    except NoSuchFile:
        if a.tokens is not None:
            raise InvalidArgument("tokens are for a new file: add CREAT, or leave out the path", path=a.path) from None
        raise


def _open_new(m: Machine, call: Call, a: Open, tokens: list[int], directory: Directory, name: str) -> FdResult:
    """Make it and name it, or leave nothing."""
    m.files.demand_free(directory, name, call.cred)
    cred, mode = call.cred, a.mode & ~call.process.umask
    inode = m.files.create(tokens, cred.principal, mode, call.start_ns, directory.group_for(cred))
    m.files.link(directory, name, inode, cred, call.start_ns)
    Payer(m, call).put(len(tokens))
    return _fd(call, inode, bool(a.flags & RDWR))


def _open_anonymous(m: Machine, call: Call, a: Open, tokens: list[int]) -> FdResult:
    """A new file that lives as long as its fds; always open for writing, for nobody else can."""
    if a.tokens is None and not a.flags & TMPFILE:
        raise InvalidArgument("open needs a path, tokens or TMPFILE")
    if a.flags & (CREAT | EXCL | TRUNC):
        raise InvalidArgument("CREAT, EXCL and TRUNC need a path", flags=int(a.flags))
    mode = a.mode & ~call.process.umask
    inode = m.files.create(tokens, call.cred.principal, mode, call.start_ns)
    Payer(m, call).put(len(tokens))
    return _fd(call, inode, True)


def _open_existing(m: Machine, call: Call, a: Open, inode: Inode) -> FdResult:
    path = a.path or ""
    if a.flags & CREAT and a.tokens is not None:
        raise FileExists(f"the name is taken: {path}", path=path)
    if a.tokens is not None:
        raise InvalidArgument("tokens are for a new file, and this one exists", path=path)
    inode.demand(call.cred, MAY_READ, path)
    if a.flags & RDWR:
        inode.demand(call.cred, MAY_WRITE, path)
    if a.require == EXACT and inode.fidelity != EXACT:
        raise InvalidArgument(f"{path} is {inode.fidelity}, not {EXACT}", path=path, fidelity=inode.fidelity)
    if a.flags & TRUNC:
        inode.demand_quiet()
        if inode.lock is not None:
            inode.lock.demand_write(None, call.start_ns)
        m.files.cut(inode, 0, call.start_ns)
    return _fd(call, inode, bool(a.flags & RDWR))


def _fd(call: Call, inode: Inode, writable: bool) -> FdResult:
    fd = call.process.fds.add(OpenFile(inode, writable, call.cred.principal))
    return FdResult(fd, inode.ino, inode.length)


def place(m: Machine, call: Call, path: str, num_new: int = 1) -> tuple[Directory, str]:
    """Where a name goes, and with it `num_new` files. What was written for ABI 1.1 knows no directories: they are made for it, as
    open as the root is."""
    if call.process.minor < DIRECTORIES:
        m.files.make_parents(path, call.cred, STICKY | 0o777, call.start_ns, num_new)
    return m.files.place(path, call.cred)


def close(m: Machine, call: Call, a: FdArgs) -> Done:
    """Forget the fd; calls of this process that run through it end with EINTR."""
    fds = call.process.fds
    inode = fds.get(a.fd, call.cred).inode
    if inode.is_busy or inode.lock is not None:
        for other in list(call.process.calls.values()):
            if other.pending is not None:
                other.pending.closed(m, a.fd, call.start_ns)
    m.files.release(fds.remove(a.fd))
    m.channels.gifts.released(inode)
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
    source.inode.demand_fresh()
    fds.demand_room()
    return _fd(call, m.files.clone(source, call.cred.principal, call.start_ns), True)


def truncate(m: Machine, call: Call, a: Truncate) -> Done:
    """Forget tokens from `length` on, and what sampling remembers of them."""
    file = call.process.fds.get_writable(a.fd, call.cred)
    inode = file.inode
    argument.demand_at(a.at, inode)
    if not 0 <= a.length <= inode.length:
        raise InvalidArgument(f"length must be in 0..{inode.length}, not {a.length}", length=inode.length)
    inode.demand_quiet()
    file.demand_write(call.start_ns)
    m.files.cut(inode, a.length, call.start_ns)
    return Done()


def append(m: Machine, call: Call, a: Append) -> LengthResult:
    """More tokens, computed when somebody asks for what follows them."""
    file = call.process.fds.get_writable(a.fd, call.cred)
    inode = file.inode
    argument.demand_at(a.at, inode)
    tokens = argument.tokens(a.tokens, m.model.vocab_size, context=m.model.max_positions)
    start = argument.start_position(a.start, inode, len(tokens), m.model.max_positions)
    inode.demand_quiet()
    file.demand_write(call.start_ns)
    m.account.demand_growth(inode, len(tokens))
    overrun.demand_tokens(m, call, len(tokens))
    m.files.extend(inode, tokens, start, call.start_ns)
    Payer(m, call).put(len(tokens))
    return LengthResult(inode.length)


def read(m: Machine, call: Call, a: Read) -> ReadResult:
    """Tokens and their positions; a range past the end gives what is there."""
    if a.path is not None and proc.is_in_proc(a.path) and a.fd is None:
        view = proc.find(m, call, a.path)
        if isinstance(view, proc.ViewText):
            return ReadResult(b"", b"", 0, view.text(m))
    inode, _ = target.file(m, call, a.fd, a.path, MAY_READ)
    if a.offset < 0 or (a.count is not None and a.count < 0):
        raise InvalidArgument(f"offset and count must be 0 or more, not {a.offset} and {a.count}")
    offset = min(a.offset, inode.length)
    stop = inode.length if a.count is None else min(offset + a.count, inode.length)
    return ReadResult(pack_tokens(inode.tokens[offset:stop]), pack_tokens(inode.positions(offset, stop)), inode.length)


def link(m: Machine, call: Call, a: Link) -> Done:
    """Name the open file."""
    inode = call.process.fds.get(a.fd, call.cred).inode
    if call.process.minor < DIRECTORIES:
        inode.demand_owner(call.cred, a.path)  # before directories are made for it
    directory, name = place(m, call, a.path, num_new=0)
    inode.demand_owner(call.cred, a.path)
    m.files.link(directory, name, inode, call.cred, call.start_ns, replace=a.replace)
    return Done()


def unlink(m: Machine, call: Call, a: PathArgs) -> Done:
    """Take a name away; who has the file open keeps it."""
    directory, name = m.files.place(a.path, call.cred)
    if isinstance(m.files.entry(directory, name), Directory):
        raise IsDirectory(f"{a.path} is a directory: rmdir takes it away", path=a.path)
    m.files.remove(directory, name, call.cred, call.start_ns)
    return Done()


def rename(m: Machine, call: Call, a: Rename) -> Done:
    """Move a name, replacing what `new` stood for."""
    old = m.files.place(a.old, call.cred)
    if call.process.minor < DIRECTORIES:
        old[0].demand_removal(m.files.entry(*old), call.cred, a.old)  # before directories are made for it
    new = place(m, call, a.new, num_new=0)
    m.files.entry(*old)
    m.files.move(old, new, call.cred, call.start_ns)
    return Done()


def stat(m: Machine, call: Call, a: Stat) -> StatResult:
    """A file by fd, or a file or directory by name."""
    node, path = target.node(m, call, a.fd, a.path, looking=True)
    if path is not None:
        target.demand_visible(node, call, path)
    return StatResult(target.shown(m, node, path, call.cred))


def list_(m: Machine, call: Call, a: List) -> ListResult:
    """Named files whose path begins with `prefix` and that the caller may see, in order."""
    found = [(path, node) for path, node in m.files.visible(call.cred, a.prefix) if isinstance(node, Inode)]
    found.sort(key=lambda pair: pair[0])
    return ListResult(tuple(target.shown(m, node, path) for path, node in found))
