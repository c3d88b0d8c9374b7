"""A root directory with nothing in it but the image (runtime/sandbox/private_root.py).

    tmpfs, read-only, nothing else in it
      bind, read-only    the standard library, with an empty directory over its site-packages; numpy; libraries; /dev/null

It hides what Landlock cannot: that a file is there, and how large it is. And it makes a Python below an unreadable home readable:
of the directories above only the names are made again. Needs a mount namespace of our own; done once, in the fork server. The
directory that the root is built in is only covered, in our namespace, so nothing is left of it anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from vllm_symphony.runtime.sandbox.image import Image
from vllm_symphony.runtime.sandbox.libc import mount, syscall

_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 0x20, 0x1000, 0x4000, 0x40000
_KEPT = 1 | 2 | 4 | 8 | 0x400 | 0x800  # ST_* and MS_* alike: a remount in a user namespace may not lose them
_DETACH = 2
_SPOT = "/tmp"  # covered, not written
_SMALL = "mode=755,size=1m"


def enter(image: Image) -> None:
    """Make it the root of this process and its children. Raises OSError, and the old root is still there then."""
    mount("none", "/", None, _RECURSIVE | _PRIVATE)
    outer = sorted({*image.listable, *_topmost(image.readable, image.listable), *image.writable})
    inner = _topmost([path for path in image.readable if path.startswith(tuple(f"{d}/" for d in image.hidden))])
    fds = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (*outer, *inner)}  # before anything is covered
    mount("tmpfs", _SPOT, "tmpfs", _NO_SUID, _SMALL)
    try:
        for path in outer:
            _bind(fds[path], path, read_only=path not in image.writable)
        for path in image.hidden:
            mount("tmpfs", _SPOT + path, "tmpfs", _NO_SUID | _NO_DEVICES, _SMALL)
        for path in inner:
            _bind(fds[path], path, read_only=True)
        for path in image.hidden:
            mount("none", _SPOT + path, None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID | _NO_DEVICES)
        _link(image)
        _switch()
    except OSError:
        os.chdir("/")
        syscall("umount2", os.fsencode(_SPOT), _DETACH)
        raise
    finally:
        for fd in fds.values():
            os.close(fd)


def _switch() -> None:
    """The new root becomes `/`; the old one is taken off."""
    os.chdir(_SPOT)
    syscall("pivot_root", b".", b".")
    syscall("umount2", b".", _DETACH)
    os.chdir("/")
    mount("none", "/", None, _BIND | _REMOUNT | _READ_ONLY | _NO_SUID)


def _bind(fd: int, path: str, *, read_only: bool) -> None:
    source, target = f"/proc/self/fd/{fd}", _SPOT + path
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.isdir(source):
        os.makedirs(target, mode=0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    mount(source, target, None, _BIND | _RECURSIVE)
    kept = os.statvfs(target).f_flag & _KEPT
    mount("none", target, None, _BIND | _REMOUNT | kept | _NO_SUID | (_READ_ONLY if read_only else 0))


def _link(image: Image) -> None:
    for name, real in image.aliases.items():
        if not os.path.lexists(_SPOT + name):
            os.makedirs(os.path.dirname(_SPOT + name), mode=0o755, exist_ok=True)
            os.symlink(real, _SPOT + name)


def _topmost(paths: Iterable[str], directories: Iterable[str] = ()) -> list[str]:
    """Those that are below none of the directories, nor below each other."""
    found: list[str] = []
    for path in sorted(paths):
        if not path.startswith(tuple(f"{d}/" for d in (*directories, *found))):
            found.append(path)
    return found
