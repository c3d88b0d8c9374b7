"""Paths (kernel/fs/path.py): absolute, as `/kb/handbook.kv`; `/` alone is the root directory.

A path is refused rather than cleaned up, so that two spellings never are one file. There are no symbolic links, no `.` and no `..`.

Credentials may be bound to some paths (a program that declares them), beside all rights:

    paths ("/kb/en",)     /kb/en, /kb/en/doc       within: named by every call, as the modes let it
                          /, /kb                   on the way: passed, and looked at (stat, lists) for what leads within
                          /kb/de, /proc            EACCES, there or not
"""

from __future__ import annotations

from vllm_symphony.abi.types import Credentials
from vllm_symphony.errors import AccessDenied, InvalidArgument, NameTooLong

PROC = "proc"  # what is below /proc is computed (kernel/fs/proc.py)


def parts_of(path: str, part_bytes: int, path_bytes: int) -> list[str]:
    """The names that a path is made of; [] for the root.

    Raises:
        NameTooLong: more than `path_bytes` in UTF-8, or a part of more than `part_bytes`.
        InvalidArgument: not absolute, ends in "/", holds NUL, or has an empty, "." or ".." part.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("a path must be valid unicode") from None
    if size > path_bytes:
        raise NameTooLong(f"a path of {size} bytes, the most is {path_bytes}", size=size, limit=path_bytes)
    if not path.startswith("/"):
        raise InvalidArgument(f"a path must begin with '/': {path!r}", path=path)
    if "\0" in path:
        raise InvalidArgument("a path must not hold a NUL byte")
    if size == 1:
        return []
    parts = path[1:].split("/")
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidArgument(f"a path must not have an empty, '.' or '..' part: {path!r}", path=path)
        if size > part_bytes and (length := len(part.encode())) > part_bytes:
            raise NameTooLong(f"a name of {length} bytes, the most is {part_bytes}", size=length, limit=part_bytes)
    return parts


def is_below(path: str, top: str) -> bool:
    """Whether the path is `top`, or below it."""
    return top in ("/", path) or path.startswith(f"{top}/")


def is_within(cred: Credentials, path: str) -> bool:
    """Whether the credentials let one name it."""
    return cred.paths is None or any(is_below(path, top) for top in cred.paths)


def leads_within(cred: Credentials, path: str) -> bool:
    """Whether they let one look at it, if it is a directory: it is within, or on the way."""
    return is_within(cred, path) or any(is_below(top, path) for top in cred.paths or ())


def demand_within(cred: Credentials, path: str, *, looking: bool = False) -> None:
    """Raises AccessDenied for a path that the credentials do not reach; `looking` at what is on the way is allowed."""
    if not (leads_within(cred, path) if looking else is_within(cred, path)):
        paths = ", ".join(cred.paths or ()) or "no path"
        raise AccessDenied(f"the program may name {paths[:512]} and what is below, not {path}", path=path, paths=paths[:512])
