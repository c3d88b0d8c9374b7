"""What a program can read of the machine (runtime/sandbox/image.py).

    the standard library    without site-packages: of that, numpy only
    shared libraries        those that an extension module may still load
    time zones, /dev/null   and nothing else: no /etc, no /proc, no home, none of the server's source, no weights

Found in the fork server by looking at what it has loaded. Links are followed, because rules and mounts are about what is behind;
`aliases` keeps the names by which Python knows it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from vllm_symphony.abi.types import PYTHON

_NOT_STANDARD = frozenset(("site-packages", "dist-packages", "test", "idlelib", "ensurepip", "turtledemo"))
_PACKAGES = ("numpy",)
_OTHERS = ("/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/urandom")
_WRITABLE = ("/dev/null",)
_SYSTEM_LIBRARIES = ("/lib", "/usr/lib")
_MAX_BUNDLED = 400
PRELOADED = (
    "argparse", "array", "ast", "base64", "binascii", "bz2", "calendar", "cmath", "colorsys", "concurrent.futures",
    "configparser", "contextvars", "csv", "difflib", "email.message", "fnmatch", "gettext", "glob", "graphlib", "gzip", "hmac",
    "html.parser", "io", "ipaddress", "keyword", "logging", "lzma", "mimetypes", "mmap", "numbers", "optparse", "pathlib",
    "pickle", "pprint", "queue", "reprlib", "secrets", "select", "selectors", "shlex", "shutil", "socket", "sqlite3", "ssl",
    "stat", "struct", "subprocess", "tarfile", "tempfile", "threading", "timeit", "tokenize", "tomllib", "urllib.parse",
    "warnings", "weakref", "xml.etree.ElementTree", "zipfile", "zlib", "zoneinfo",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """`listable`: directories whose names may be seen (the import system lists them) but whose `hidden` entries may not be read;
    `readable`: read with all below; `writable`: devices; `aliases`: link -> what it leads to."""

    listable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = _WRITABLE
    aliases: Mapping[str, str] = field(default_factory=dict)


def look(kind: str) -> Image:
    """The image of this fork server. Needs /proc, or finds fewer libraries."""
    libraries = _libraries()
    links = {path: os.path.realpath(path) for path in ("/lib", "/lib64") if os.path.islink(path)}
    if kind != PYTHON:
        return Image(readable=_existing([*libraries, *_OTHERS]), aliases=links)
    named = os.path.dirname(os.__file__)
    library = os.path.realpath(named)
    names = _names(library)
    parts = [os.path.join(library, name) for name in names if name not in _NOT_STANDARD]
    hidden = tuple(os.path.join(library, name) for name in names if name in _NOT_STANDARD)
    packages = _packages()
    links |= {name: real for name, real in ((named, library), *packages) if name != real}
    readable = [*parts, *(real for _, real in packages), *libraries, *_OTHERS]
    return Image((library,), hidden, _existing(readable), aliases=links)


def preload() -> None:
    """Import what programs use most, for when they cannot read the library themselves."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)


def is_open_to_all(path: str) -> bool:
    """Whether any user may read it, its directories included."""
    try:
        mode = os.stat(path).st_mode
        needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) else 0)
        while path != "/" and mode & needed == needed:
            path, needed = os.path.dirname(path), stat.S_IXOTH
            mode = os.stat(path).st_mode
    except OSError:
        return False
    return mode & needed == needed


def _packages() -> list[tuple[str, str]]:
    """Name and place of packages that programs may import, and of the libraries that came in their wheels."""
    found = []
    for name in _PACKAGES:
        module = sys.modules.get(name)
        if module is not None and module.__file__:
            home = os.path.dirname(module.__file__)
            found += [(path, os.path.realpath(path)) for path in (home, f"{home}.libs") if os.path.isdir(path)]
    return found


def _libraries() -> list[str]:
    """The directories of the system's libraries, and the single files of others: what is loaded, and what lies beside Python."""
    found = []
    for path in sorted(_mapped()):
        if "-packages" not in path and "lib-dynload" not in path:
            found.append(os.path.dirname(path) if path.startswith(_SYSTEM_LIBRARIES) else path)
    beside = os.path.realpath(os.path.join(sys.base_prefix, "lib"))
    if beside not in _SYSTEM_LIBRARIES and os.path.isdir(beside):
        bundled = [os.path.join(beside, name) for name in _names(beside) if ".so" in name]
        found += [os.path.realpath(path) for path in bundled[:_MAX_BUNDLED]]
    return found


def _names(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def _mapped() -> set[str]:
    try:
        with open("/proc/self/maps") as maps:
            return {os.path.realpath(line.split(None, 5)[5].strip()) for line in maps if ".so" in line}
    except OSError:
        return set()


def _existing(paths: list[str]) -> tuple[str, ...]:
    return tuple(path for path in dict.fromkeys(paths) if os.path.exists(path))
