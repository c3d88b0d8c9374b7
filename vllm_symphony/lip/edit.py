"""New files out of old ones (lip/edit.py). `fork` and `extract` are methods of `File`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vllm_symphony.abi.calls import Concat
from vllm_symphony.lip import transport
from vllm_symphony.lip.file import File, Opening, open

_PERMISSIONS = 0o777


def concat(files: Iterable[File], *, mode: Literal["recompute", "rotate"] = "recompute", timeout_s: float | None = None) -> Opening:
    """A new anonymous file with the tokens of all `files`, one after the other; positions go on from the end of the first.

    mode: "recompute" (the pages of the first are shared, the rest is computed when it is needed; exact if the first is) or "rotate"
    (keys and values of the others are copied and rotated: nothing is computed, lineage `approximate`: they have not seen what
    stands before them).

    Raises:
        NotSupported: the model's cache cannot be rotated; the message says why.
        ContextTooLong: together they pass the model's limit.
        OutOfPages, QuotaExceeded, TooManyFiles, TimedOut.
    """
    args = Concat(tuple(file.fd for file in files), mode, timeout_s)

    async def make() -> File:
        return File(await transport.call_fd("concat", args))

    return Opening(make)


async def copy(src: str, dst: str, *, replace: bool = False) -> None:
    """Make a file at `dst` that shares all pages of the one at `src`, with its rights: no work, no new pages until one is written.

    Raises:
        FileExists: the name is taken, and `replace` is False.
        NoSuchFile, AccessDenied: of either name.
    """
    async with open(src) as file, file.fork() as fork:
        await fork.chmod((await file.stat()).mode & _PERMISSIONS)
        await fork.link(dst, replace=replace)
