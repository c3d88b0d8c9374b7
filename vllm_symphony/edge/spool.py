"""Packed files on their way through the edge (edge/spool.py).

    export   kernel host packs -> spool/NAME -> pieces -> client       its name is gone as soon as it is open
    import   client -> pieces -> spool/NAME -> kernel host unpacks      removed when that is done

A pack may be gigabytes, so it never stands in memory: the kernel's host and the edge hand it over as a file in a folder of the
state directory (0700, each file 0600). What a killed server left there the host removes, which holds the directory's lock.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from vllm_symphony.errors import ContextTooLong, DataCorrupt, InvalidArgument, NotSupported, OutOfPages, WouldBlock

PIECE_BYTES = 256 << 10
MAX_IMPORT_BYTES = 64 << 30
MAX_IMPORTS = 8  # at once
RETRY_AFTER_S = 1.0


class Spool:
    """The folder; None: this server has no state directory, and neither takes nor gives packs."""

    def __init__(self, folder: Path | None, *, max_import_bytes: int = MAX_IMPORT_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_import_bytes
        self._num_imports = 0

    def demand(self) -> Path:
        """The folder. Raises NotSupported where there is none."""
        if self._folder is None:
            raise NotSupported("this server has no state directory: files are neither exported nor imported")
        return self._folder

    async def sent(self, name: str) -> AsyncGenerator[bytes, None]:
        """The pieces of a pack that the kernel's host has made. Raises DataCorrupt when it is not there."""
        path = self.demand() / name
        try:
            file = path.open("rb")
            path.unlink()
        except OSError as e:
            raise DataCorrupt(f"the packed file {name} is not in the spool folder: {e.strerror}") from None
        with file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece

    @asynccontextmanager
    async def received(self, pieces: AsyncIterator[bytes], whose: str) -> AsyncIterator[str]:
        """The name of the pack that the pieces make; it is removed in the end. `whose` names the request: a retry has the same.

        Raises:
            ContextTooLong: it is larger than this server takes.
            InvalidArgument: it is empty.
            OutOfPages: the disk has no room for it.
            WouldBlock: too many come in at once, or the same one.
        """
        path = self.demand() / f"import-{blake2b(whose.encode(), digest_size=16).hexdigest()}"
        if self._num_imports >= MAX_IMPORTS:
            raise WouldBlock(f"{self._num_imports} files are coming in, the most at once", retry_after_s=RETRY_AFTER_S)
        fd = _make(path)
        self._num_imports += 1
        try:
            await self._take(fd, pieces)
            yield path.name
        finally:
            self._num_imports -= 1
            with suppress(OSError):
                path.unlink(missing_ok=True)

    async def _take(self, fd: int, pieces: AsyncIterator[bytes]) -> None:
        num_bytes = 0
        with os.fdopen(fd, "wb", buffering=0) as file:
            async for piece in pieces:
                num_bytes += len(piece)
                if num_bytes > self._max_bytes:
                    raise ContextTooLong(f"the pack has more than {self._max_bytes} bytes", limit=self._max_bytes)
                try:
                    await asyncio.to_thread(file.write, piece)
                except OSError as e:
                    raise OutOfPages(f"no room for the pack: {e.strerror}") from None
        if not num_bytes:
            raise InvalidArgument("the pack is empty")


def _make(path: Path) -> int:
    """An fd of a new file that is private."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise WouldBlock("the same import is coming in already", retry_after_s=RETRY_AFTER_S) from None
    except OSError as e:
        raise OutOfPages(f"no room for the pack: {e.strerror}") from None
