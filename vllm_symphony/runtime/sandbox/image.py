"""What a program can read of the machine (runtime/sandbox/image.py).

    the standard library    without site-packages: of that, numpy only
    shared libraries        those that an extension module may still load
    time zones, /dev/null   and nothing else: no /etc, no /proc, no home, none of the server's source, no weights

Found in the fork server by looking at what it has loaded; links are followed, because rules and mounts are about what is behind.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass

_NOT_STANDARD = ("site-packages", "dist-packages", "test", "idlelib", "ensurepip", "turtledemo")
_PACKAGES = ("numpy",)
_OTHERS = ("/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/urandom")
WRITABLE = ("/dev/null",)


@dataclass(frozen=True, slots=True)
class Image:
    """`listable`: directories whose names may be seen (the import system lists them); `readable`: read with all below."""

    listable: tuple[str, ...]
    readable: tuple[str, ...]
    writable: tuple[str, ...] = WRITABLE


def look(kind: str) -> Image:
    """The image of this fork server. Needs /proc, or finds fewer libraries."""
    libraries = _libraries()
    if kind != "python":
        return Image((), (*libraries, *_OTHERS))
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    parts = [os.path.join(library, name) for name in sorted(os.listdir(library)) if name not in _NOT_STANDARD]
    return Image((library,), tuple(dict.fromkeys([*parts, *_packages(), *libraries, *_OTHERS])))


def _packages() -> list[str]:
    """The directories of packages that programs may import, and of the libraries that came in their wheels."""
    found = []
    for name in _PACKAGES:
        module = sys.modules.get(name)
        if module is not None and module.__file__:
            home = os.path.dirname(os.path.realpath(module.__file__))
            found += [path for path in (home, f"{home}.libs") if os.path.isdir(path)]
    return found


def _libraries() -> list[str]:
    """The directories of the C library and its like; the files themselves where they lie among other things."""
    found = []
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(None, 5)[5].strip() for line in maps if ".so" in line}
    except OSError:
        paths = set()
    for path in sorted(paths):
        if "-packages" not in path and "lib-dynload" not in path:
            found.append(os.path.dirname(path) if path.startswith(("/lib", "/usr/lib")) else path)
    return list(dict.fromkeys(found))
