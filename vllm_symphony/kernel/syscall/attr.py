"""Attributes (kernel/syscall/attr.py).

setxattr getxattr listxattr removexattr     names and values of the users' own; to read them is to read the file, as in Linux
chattr                                      how a directory's files are kept, and when files expire
"""

from __future__ import annotations

from collections.abc import Mapping

from vllm_symphony.abi.calls import Chattr, Done, FileArgs, Setxattr, Xattr, XattrsResult
from vllm_symphony.errors import FileExists, InvalidArgument, NoAttribute, QuotaExceeded
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs.directory import DURABLE, Directory
from vllm_symphony.kernel.fs.inode import Inode
from vllm_symphony.kernel.fs.node import MAY_READ, MAY_WRITE, STICKY, Node
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import target
from vllm_symphony.kernel.timer import FOREVER_S, after

MAX_NAME_BYTES, MAX_VALUE_BYTES = 255, 64 << 10
MAX_ATTRIBUTES, MAX_ALL_BYTES = 128, 1 << 20  # of one file: EDQUOT


def setxattr(m: Machine, call: Call, a: Setxattr) -> Done:
    """Set one; it may have to be new, or to be there."""
    found = _writable(m, call, a.fd, a.path)
    _size(a.name, 1, MAX_NAME_BYTES, "an attribute's name")
    size = _size(a.value, 0, MAX_VALUE_BYTES, "an attribute's value")
    if "\0" in a.name:
        raise InvalidArgument("an attribute's name must not hold a NUL byte")
    if a.create and a.replace:
        raise InvalidArgument("an attribute cannot both be new and be there")
    is_new = a.name not in found.xattrs
    if a.create and not is_new:
        raise FileExists(f"the attribute is there: {a.name}", name=a.name)
    if a.replace and is_new:
        raise NoAttribute(f"no such attribute: {a.name}", name=a.name)
    if is_new and len(found.xattrs) >= MAX_ATTRIBUTES:
        raise QuotaExceeded(f"{MAX_ATTRIBUTES} attributes, the most a file may have", limit=MAX_ATTRIBUTES)
    others = sum(len(f"{name}{value}".encode()) for name, value in found.xattrs.items() if name != a.name)
    if others + size + len(a.name.encode()) > MAX_ALL_BYTES:
        raise QuotaExceeded(f"a file's attributes take up to {MAX_ALL_BYTES} bytes", limit=MAX_ALL_BYTES)
    found.xattrs[a.name] = a.value
    m.files.changed(found, "attrib", detail=a.name)
    return Done()


def demand_all(xattrs: Mapping[str, str]) -> None:
    """Check attributes that a file gets at once. Raises InvalidArgument, QuotaExceeded."""
    if len(xattrs) > MAX_ATTRIBUTES:
        raise QuotaExceeded(f"{MAX_ATTRIBUTES} attributes, the most a file may have", limit=MAX_ATTRIBUTES)
    total = 0
    for name, value in xattrs.items():
        total += _size(name, 1, MAX_NAME_BYTES, "an attribute's name")
        total += _size(value, 0, MAX_VALUE_BYTES, "an attribute's value")
        if "\0" in name:
            raise InvalidArgument("an attribute's name must not hold a NUL byte")
    if total > MAX_ALL_BYTES:
        raise QuotaExceeded(f"a file's attributes take up to {MAX_ALL_BYTES} bytes", limit=MAX_ALL_BYTES)


def getxattr(m: Machine, call: Call, a: Xattr) -> XattrsResult:
    """One of them."""
    found = _readable(m, call, a.fd, a.path)
    _demand_there(found, a.name)
    return XattrsResult({a.name: found.xattrs[a.name]})


def listxattr(m: Machine, call: Call, a: FileArgs) -> XattrsResult:
    """All of them, by name."""
    return XattrsResult(dict(sorted(_readable(m, call, a.fd, a.path).xattrs.items())))


def removexattr(m: Machine, call: Call, a: Xattr) -> Done:
    """Take one away."""
    found = _writable(m, call, a.fd, a.path)
    _demand_there(found, a.name)
    del found.xattrs[a.name]
    m.files.changed(found, "attrib", detail=a.name)
    return Done()


def chattr(m: Machine, call: Call, a: Chattr) -> Done:
    """How a directory's files are kept, how long they live; or how long this one does."""
    found, path = target.owned(m, call, a.fd, a.path)
    if isinstance(found, Directory):
        _chattr_directory(m, found, a)
    elif isinstance(found, Inode):
        if a.durable is not None or a.ttl_s is not None:
            raise InvalidArgument(f"durable and ttl_s are a directory's, {path or a.fd} is a file")
        if a.expires_s is not None:
            _demand_seconds("expires_s", a.expires_s)
            m.files.expire(found, after(call.start_ns, a.expires_s) if a.expires_s else None)
    return Done()


def _chattr_directory(m: Machine, directory: Directory, a: Chattr) -> None:
    if a.expires_s is not None:
        raise InvalidArgument("expires_s is a file's: a directory has ttl_s, for what is made in it")
    if a.durable is not None and a.durable not in ("", *DURABLE):
        raise InvalidArgument(f"durable must be one of {', '.join(DURABLE)} or empty, not {a.durable!r}")
    if a.durable == "" and directory is m.files.root:
        raise InvalidArgument("nothing is above /: say how it is kept", path="/")
    above = directory.parent
    if a.durable in DURABLE[1:] and above is not None and m.files.durable_in(above) == "none":
        raise InvalidArgument(f"{m.files.path_of(above)} keeps nothing, so what is below it cannot be kept", durable=a.durable)
    if a.ttl_s is not None:
        _demand_seconds("ttl_s", a.ttl_s)
    directory.durable = a.durable if a.durable is not None else directory.durable
    directory.ttl_s = min(a.ttl_s, FOREVER_S) if a.ttl_s is not None else directory.ttl_s
    m.files.changed(directory, "attrib", detail="durable" if a.durable is not None else "ttl_s")


def _demand_seconds(word: str, seconds: float) -> None:
    if not seconds >= 0:
        raise InvalidArgument(f"{word} must be 0 or more, not {seconds}")


def _size(text: str, least: int, most: int, what: str) -> int:
    """Bytes of a text. Raises InvalidArgument."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} must be valid unicode") from None
    if not least <= size <= most:
        raise InvalidArgument(f"{what} has {least}..{most} bytes, not {size}", size=size, limit=most)
    return size


def _demand_there(found: Node, name: str) -> None:
    if name not in found.xattrs:
        raise NoAttribute(f"no such attribute: {name} ({len(found.xattrs)} are there)", name=name)


def _readable(m: Machine, call: Call, fd: int | None, path: str | None) -> Node:
    found, _ = target.node(m, call, fd, path)
    if path is not None:
        found.demand(call.cred, MAY_READ, path)
    return found


def _writable(m: Machine, call: Call, fd: int | None, path: str | None) -> Node:
    """An fd must be open for writing; a sticky directory is for all to write in, but not on."""
    found, _ = target.node(m, call, fd, path)
    if fd is not None:
        call.process.fds.get_writable(fd, call.cred)
    else:
        target.demand_changeable(found, path)
        found.demand(call.cred, MAY_WRITE, path or "")
        if found.mode & STICKY:
            found.demand_owner(call.cred, path or "")
    return found
