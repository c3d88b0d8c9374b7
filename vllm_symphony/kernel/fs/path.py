"""Names of files (kernel/fs/path.py): one flat space of absolute names, as `/kb/handbook.kv`.

Slashes are for people; there are no directories to make. A name is refused rather than cleaned up, so that two spellings are never
one file.
"""

from __future__ import annotations

from vllm_symphony.errors import InvalidArgument, NameTooLong


def demand_name(path: str, max_bytes: int) -> None:
    """Check a file's name.

    Raises:
        NameTooLong: more than `max_bytes` in UTF-8.
        InvalidArgument: not absolute, ends in "/", holds NUL, or has an empty, "." or ".." part.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("a name must be valid unicode") from None
    if size > max_bytes:
        raise NameTooLong(f"a name of {size} bytes, the most is {max_bytes}", size=size, limit=max_bytes)
    if not path.startswith("/"):
        raise InvalidArgument(f"a name must begin with '/': {path!r}", path=path)
    if "\0" in path:
        raise InvalidArgument("a name must not hold a NUL byte")
    if any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise InvalidArgument(f"a name must not have an empty, '.' or '..' part: {path!r}", path=path)
