"""Files that only their owner may read (edge/private_file.py).

Written whole: a temporary file beside it, fsync, rename, fsync of the directory. So a reader sees the old text or the new one,
after a crash too, and it never had another mode than 0600.
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from vllm_symphony.errors import AccessDenied


def write_private(path: Path, text: str) -> None:
    """Replace the file's text. Raises AccessDenied when the directory cannot be written."""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # made with mode 0600
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        raise AccessDenied(f"cannot write {path}: {e.strerror}", path=str(path)) from None


def read_private(path: Path) -> bytes:
    """The file's bytes.

    Raises:
        FileNotFoundError: there is none.
        AccessDenied: it cannot be read, is another user's, or others may read or write it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid():
                raise AccessDenied(f"{path} belongs to user {status.st_uid}, not to you", path=str(path))
            if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
                raise AccessDenied(f"others may use {path} (mode 0{mode:o}): chmod 600 it", path=str(path))
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as e:
        raise AccessDenied(f"cannot read {path}: {e.strerror}", path=str(path)) from None
