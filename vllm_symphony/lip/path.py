"""Files and directories by name (lip/path.py): what needs no open file.

    await lip.mkdir("/kb/drafts", parents=True)
    for file in await lip.listdir("/kb"): ...
    await lip.rename("/kb/new.kv", "/kb/handbook.kv")        atomic: readers see the old one or the new one

Errors are POSIX's: NoSuchFile, NotDirectory, AccessDenied and NameTooLong of any path; ReadOnly for a change below /proc.
"""

from __future__ import annotations

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import FileStat, FsStat, Quota, unpack_tokens
from vllm_symphony.lip import transport
from vllm_symphony.lip.handle import Advice, Tier
from vllm_symphony.lip.text import detokenize

Durable = str
"""none, tokens or pages; "" as the directory above."""

# ---- names


async def ls(prefix: str = "/") -> list[FileStat]:
    """Named files (not directories) that the caller may see and whose path begins with `prefix`, by name."""
    return list((await transport.call("list", calls.List(prefix))).files)


async def listdir(path: str = "/", *, recursive: bool = False) -> list[FileStat]:
    """What the directory holds, by name, directories too; `recursive`: and all below it."""
    return list((await transport.call("listdir", calls.Listdir(path, recursive))).files)


async def mkdir(path: str, mode: int = 0o777, *, parents: bool = False) -> None:
    """Make a directory; `mode` loses the umask's bits. `parents`: those above it too, and one that exists is no error.

    Raises FileExists, QuotaExceeded.
    """
    await transport.call("mkdir", calls.Mkdir(path, mode, parents))


async def rmdir(path: str) -> None:
    """Take an empty directory away; NotEmpty when it is not."""
    await transport.call("rmdir", calls.PathArgs(path))


async def unlink(path: str) -> None:
    """Remove the name; the file goes with its last name and fd. IsDirectory for a directory."""
    await transport.call("unlink", calls.PathArgs(path))


async def rename(old: str, new: str) -> None:
    """Atomic; what was at `new` is replaced: a file by a file, an empty directory by a directory (else NotEmpty)."""
    await transport.call("rename", calls.Rename(old, new))


# ---- what is in them, and what is known of them


async def cat(path: str, *, skip_special: bool = True) -> str:
    """The file's tokens as text; below /proc the text of the view, as JSON."""
    result: calls.ReadResult = await transport.call("read", calls.Read(None, path))
    if result.text is not None:
        return result.text
    return await detokenize(unpack_tokens(result.tokens), skip_special=skip_special)


async def stat(path: str) -> FileStat:
    """All that the kernel knows of the file or the directory; NoSuchFile when there is none."""
    file: FileStat = (await transport.call("stat", calls.Stat(None, path))).file
    return file


async def chmod(path: str, mode: int) -> None:
    """Set the rights: bits 0o777 of a file, 0o3777 of a directory. NotOwner when it is another principal's."""
    await transport.call("chmod", calls.Chmod(mode, None, path))


async def chown(path: str, owner: str | None = None, group: str | None = None) -> None:
    """Give it to another principal (scope admin), or to a group that the caller is in. NotOwner, QuotaExceeded."""
    await transport.call("chown", calls.Chown(None, path, owner, group))


async def umask(mask: int | None = None) -> int:
    """Set which bits new files and directories of this process do not get (None: leave it); gives the mask before."""
    result: calls.UmaskResult = await transport.call("umask", calls.Umask(mask))
    return result.mask


async def setxattr(path: str, name: str, value: str, *, create: bool = False, replace: bool = False) -> None:
    """Set an extended attribute. `create`: it must be new (FileExists); `replace`: it must exist (NoAttribute)."""
    await transport.call("setxattr", calls.Setxattr(name, value, None, path, create, replace))


async def getxattr(path: str, name: str) -> str:
    """An extended attribute; NoAttribute when there is none."""
    result: calls.XattrsResult = await transport.call("getxattr", calls.Xattr(name, None, path))
    return result.attributes[name]


async def listxattr(path: str) -> dict[str, str]:
    """All extended attributes, by name."""
    result: calls.XattrsResult = await transport.call("listxattr", calls.FileArgs(None, path))
    return result.attributes


async def removexattr(path: str, name: str) -> None:
    """Take an extended attribute away; NoAttribute when there is none."""
    await transport.call("removexattr", calls.Xattr(name, None, path))


# ---- where it is kept, and what that costs


async def chattr(path: str, *, durable: Durable | None = None, expires_s: float | None = None, ttl_s: float | None = None) -> None:
    """Say how it is kept; None: as it is.

    `durable` of a directory: what of the files in it survives a restart. `expires_s` of a file: it is unlinked so many seconds from
    now, 0 never. `ttl_s` of a directory: what is made in it expires so. NotOwner, NotSupported where the server keeps nothing.
    """
    await transport.call("chattr", calls.Chattr(None, path, durable, expires_s, ttl_s))


async def pin(path: str, pinned: bool = True) -> None:
    """Keep its pages on the device, or (`pinned=False`) let them go again when there is no room.

    Raises QuotaExceeded above the principal's limit, OutOfPages when they do not fit.
    """
    await transport.call("pin", calls.Pin(None, path, pinned))


async def advise(
    path: str, advice: Advice = "willneed", *, tier: Tier = "host", wait: bool = False, timeout_s: float | None = None
) -> None:
    """willneed: bring its pages to the device. dontneed: demote them to the `tier`. `wait`: until it is done.

    Raises:
        FileBusy: a call writes it. OutOfPages, NotSupported: there is no room, or no such tier. TimedOut.
    """
    await transport.call("advise", calls.Advise(None, path, advice, tier, wait, timeout_s))


async def sync(path: str | None = None, *, timeout_s: float | None = None) -> calls.SyncResult:
    """Write it, or all named files of the caller, to disk as the directories say, and wait until it is there.

    Raises:
        InvalidArgument: the file's directory keeps nothing.
        OutOfPages, DataCorrupt: the disk is full, or broken. TimedOut.
    """
    result: calls.SyncResult = await transport.call("sync", calls.Sync(None, path, timeout_s))
    return result


async def statfs() -> FsStat:
    """The file system: what there is on the device, in host memory and on disk, and what the caller has of it."""
    fs: FsStat = (await transport.call("statfs", calls.NoArgs())).fs
    return fs


async def du(path: str) -> calls.DuResult:
    """What a file, or all below a directory, costs; a page that n files share costs each 1/n."""
    result: calls.DuResult = await transport.call("du", calls.FileArgs(None, path))
    return result


async def getquota(principal: str = "") -> Quota:
    """The caller's limits, and what is used of them; with scope admin another principal's."""
    quota: Quota = (await transport.call("getquota", calls.Getquota(principal))).quota
    return quota


# ---- looking for them


async def find(
    path: str = "/",
    *,
    name: str = "",
    owner: str = "",
    kind: str = "",
    fidelity: str = "",
    xattr: dict[str, str] | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    min_age_s: float | None = None,
    max_age_s: float | None = None,
    text: str = "",
    limit: int = 1000,
    timeout_s: float | None = None,
) -> calls.FindResult:
    """Files and directories below `path` that fit all of what is given, by path; with `text` the best match first.

    `name`: a glob on the last part of the path. `text`: words as in SQLite FTS5. `xattr`: name of an attribute -> a glob on its
    value. Lengths in tokens, ages since the tokens changed. `kind`: file or dir. `fidelity`: exact, pruned or approximate.
    InvalidArgument for a query that FTS5 does not take; TimedOut.
    """
    result: calls.FindResult = await transport.call("find", calls.Find(
        path, name, owner, kind, fidelity, xattr or {}, min_length, max_length, min_age_s, max_age_s, text, limit, timeout_s,
    ))  # fmt: skip
    return result
