"""Named files (lip/path.py): what a program does with a name alone."""

from __future__ import annotations

from vllm_symphony.abi.calls import List, PathArgs, Rename, Stat
from vllm_symphony.abi.types import FileStat
from vllm_symphony.lip import transport


async def ls(prefix: str = "/") -> list[FileStat]:
    """Named files that the caller may see and whose path begins with `prefix`, by name."""
    return list((await transport.call("list", List(prefix))).files)


async def stat(path: str) -> FileStat:
    """All that the kernel knows of the file; NoSuchFile when there is none."""
    file: FileStat = (await transport.call("stat", Stat(None, path))).file
    return file


async def unlink(path: str) -> None:
    """Remove the name; the file goes with its last name and fd."""
    await transport.call("unlink", PathArgs(path))


async def rename(old: str, new: str) -> None:
    """Atomic; what was at `new` is replaced."""
    await transport.call("rename", Rename(old, new))
