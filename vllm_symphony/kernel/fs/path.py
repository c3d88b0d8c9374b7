"""Paths (kernel/fs/path.py): absolute, as `/kb/handbook.kv`; `/` alone is the root directory.

A path is refused rather than cleaned up, so that two spellings never are one file. There are no symbolic links, no `.` and no `..`.
"""

from __future__ import annotations

from vllm_symphony.errors import InvalidArgument, NameTooLong

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
