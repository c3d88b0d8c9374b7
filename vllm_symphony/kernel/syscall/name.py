"""Directories, and whose things are (kernel/syscall/name.py).

    mkdir rmdir listdir chmod chown umask

As POSIX, where it speaks. A directory has one name, always; nothing is called `.` or `..`. What is below /proc cannot be changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from vllm_symphony.abi.calls import Chmod, Chown, Done, Listdir, ListResult, Mkdir, PathArgs, Umask, UmaskResult
from vllm_symphony.abi.types import FileStat
from vllm_symphony.errors import FileBusy, FileExists, InvalidArgument, NotDirectory, NotOwner
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.fs import proc
from vllm_symphony.kernel.fs.directory import FIXED, Directory
from vllm_symphony.kernel.fs.node import MAY_READ, SETGID, STICKY, is_in
from vllm_symphony.kernel.fs.path import is_within
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.process import Kind
from vllm_symphony.kernel.syscall import target

RIGHTS = 0o777
DIRECTORY_MODE = SETGID | STICKY | RIGHTS
MAX_GROUP = 255  # characters of an owner's or a group's name


def mkdir(m: Machine, call: Call, a: Mkdir) -> Done:
    """Make a directory, and with `parents` those above it."""
    if not 0 <= a.mode <= DIRECTORY_MODE:
        raise InvalidArgument(f"mode must be in 0..{DIRECTORY_MODE:#o}, not {a.mode:#o}", mode=a.mode)
    if not m.files.parts(a.path):
        if a.parents:
            return Done()
        raise FileExists("/ is there", path=a.path)
    umask = call.process.umask
    if a.parents:
        m.files.make_parents(a.path, call.cred, RIGHTS & ~umask | 0o300, call.start_ns)
    directory, name = m.files.place(a.path, call.cred)
    if not (a.parents and isinstance(directory.entries.get(name), Directory)):
        m.files.mkdir(directory, name, call.cred, a.mode & ~umask, call.start_ns)
    return Done()


def rmdir(m: Machine, call: Call, a: PathArgs) -> Done:
    """Take an empty directory away."""
    if not m.files.parts(a.path):
        raise FileBusy("/ stays where it is", path=a.path)
    directory, name = m.files.place(a.path, call.cred)
    found = m.files.entry(directory, name)
    if not isinstance(found, Directory):
        raise NotDirectory(f"{a.path} is a file: unlink takes it away", path=a.path)
    if found.ino in FIXED:
        raise FileBusy(f"{a.path} stays where it is", path=a.path)
    m.files.remove(directory, name, call.cred, call.start_ns)
    return Done()


def listdir(m: Machine, call: Call, a: Listdir) -> ListResult:
    """What a directory holds, of what the caller may see; /proc is looked into only where it is named."""
    found = target.at(m, call, a.path, looking=True)
    if isinstance(found, Directory):
        found.demand(call.cred, MAY_READ, a.path)
        inside = m.files.below(found, a.path, call.cred, deep=a.recursive)
        shown = [target.shown(m, node, path) for path, node in inside]
        if found is m.files.root and is_within(call.cred, proc.ROOT):
            shown.append(target.shown(m, proc.find(m, call, proc.ROOT), proc.ROOT))
            shown.sort(key=lambda stat: stat.path.split("/") if stat.path else [])
        return ListResult(tuple(shown))
    if not isinstance(found, proc.ViewDirectory):
        raise NotDirectory(f"{a.path} is a file", path=a.path)
    return ListResult(tuple(_views(m, call, found, a.path, a.recursive)))


def _views(m: Machine, call: Call, directory: proc.ViewDirectory, path: str, recursive: bool) -> Iterator[FileStat]:
    for name, node in sorted(proc.inside(m, call, directory), key=lambda pair: pair[0]):
        yield target.shown(m, node, f"{path}/{name}")
        if recursive and isinstance(node, proc.ViewDirectory):
            yield from _views(m, call, node, f"{path}/{name}", recursive)


def chmod(m: Machine, call: Call, a: Chmod) -> Done:
    """Set the rights. Who is not in a directory's group takes its setgid bit away with it."""
    found, _ = target.owned(m, call, a.fd, a.path)
    most = DIRECTORY_MODE if isinstance(found, Directory) else RIGHTS
    if not 0 <= a.mode <= most:
        raise InvalidArgument(f"mode must be in 0..{most:#o}, not {a.mode:#o}", mode=a.mode)
    found.mode = a.mode
    if not is_in(call.cred, found.group) and not call.cred.is_admin:
        found.mode &= ~SETGID
    m.files.changed(found, "attrib")
    return Done()


def chown(m: Machine, call: Call, a: Chown) -> Done:
    """Give it away (admin), or to a group that the caller is in."""
    found, path = target.owned(m, call, a.fd, a.path)
    cred = call.cred
    for name in (a.owner, a.group):
        if name is not None and not 0 < len(name) <= MAX_GROUP:
            raise InvalidArgument(f"a principal or group has 1..{MAX_GROUP} characters")
    if a.owner not in (None, found.owner) and not cred.is_admin:
        raise NotOwner(f"only scope admin gives files away: {path or a.fd}", owner=a.owner or "")
    if a.group not in (None, found.group) and not cred.is_admin and not is_in(cred, a.group or ""):
        raise NotOwner(f"{cred.principal} is not in the group {a.group}", group=a.group or "")
    if a.owner is not None:
        m.account.chown(found, a.owner)
    found.group = a.group if a.group is not None else found.group
    m.files.changed(found, "attrib")
    return Done()


def umask(m: Machine, call: Call, a: Umask) -> UmaskResult:
    """Which bits new files and directories of this process do not get."""
    process = call.process
    before = process.umask
    if a.mask is not None:
        if process.kind is Kind.EDGE:
            raise InvalidArgument("many share an edge: only a program, a client or a session has a umask of its own")
        if not 0 <= a.mask <= RIGHTS:
            raise InvalidArgument(f"mask must be in 0..{RIGHTS:#o}, not {a.mask:#o}", mask=a.mask)
        process.umask = a.mask
    return UmaskResult(before)
