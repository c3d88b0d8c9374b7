"""The state directory: what one server keeps on disk (store/state.py).

    store.lock     held by flock as long as the server lives, with its process id
    store.db       SQLite, WAL: nodes, names, tokens, attributes, limits (database.py); store.db.v1: from before a migration
    search.db      the text index; made again when it is missing (search.py)
    pages/         segment files (segment.py)
    quarantine/    segments with a wrong checksum
    spool/         exported files on their way to or from an edge
    server.key     signs what is exported

All 0600 in folders of 0700. The lock ends with the process, so a killed server leaves nothing that stops the next one; a second
server on the same directory is refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from pathlib import Path

from vllm_symphony.errors import AccessDenied, FileExists, OutOfPages, ReadOnly, SymphonyError
from vllm_symphony.store.segment import remove_leftovers, sync_directory

FOLDER = "fs"  # below the server's state directory, beside the tokens
SPOOL = "spool"
KEY_BYTES = 32


class StateDirectory:
    """The directory, locked by us until `close`."""

    def __init__(self, path: Path) -> None:
        """Make it if there is none, lock it, and clear away what an interrupted server left.

        Raises:
            FileExists: another server uses it.
            AccessDenied, ReadOnly, OutOfPages: it cannot be made or written, or is another user's.
        """
        self.path = path
        self.database = path / "store.db"
        self.index = path / "search.db"
        self.pages, self.quarantine, self.spool = path / "pages", path / "quarantine", path / SPOOL
        self._lock = -1
        try:
            for folder in (path, self.pages, self.quarantine, self.spool):
                _make_private(folder)
            self._lock = os.open(path / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._claim()
            remove_leftovers(self.pages)
            for left in self.spool.iterdir():
                left.unlink()
        except OSError as error:
            self.close()
            raise unusable(path, error) from error
        except BaseException:
            self.close()
            raise

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "?"
            raise FileExists(
                f"a server already keeps its files in {self.path} (process {pid}): stop it, or choose another --state-dir, or "
                "--no-state",
                path=str(self.path), pid=pid,
            ) from None  # fmt: skip
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def key(self) -> bytes:
        """The key that signs what this server exports; made once. Raises AccessDenied, ReadOnly, OutOfPages."""
        path = self.path / "server.key"
        try:
            if path.exists() and len(key := path.read_bytes()) == KEY_BYTES:
                return key
            key = secrets.token_bytes(KEY_BYTES)
            aside = path.with_name("server.key.tmp")
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, key)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(aside, path)
            sync_directory(self.path)
            return key
        except OSError as error:
            raise unusable(path, error) from error

    def close(self) -> None:
        """Let the lock go. Idempotent."""
        fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)


def unusable(path: Path, error: OSError) -> SymphonyError:
    """What a failure of the operating system on our files means."""
    text = f"cannot use {path}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutOfPages(text, path=str(path))
    if error.errno == errno.EROFS:
        return ReadOnly(text, path=str(path))
    return AccessDenied(text, path=str(path))


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise AccessDenied(f"{path} belongs to user {status.st_uid}, not to you", path=str(path))
    if stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)
