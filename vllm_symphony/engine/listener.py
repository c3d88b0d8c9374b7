"""The unix socket that clients and the edge connect to (engine/listener.py).

Made so that two servers never share a path and a crashed one's leftover is no obstacle: under a lock on the folder, a socket that
nobody answers is removed, one that somebody answers is an error. The mode is 0600 before the first connection can succeed, and each
peer is asked of the system who it is (SO_PEERCRED): only the server's own user and root may speak.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator

from vllm_symphony.errors import FileExists, NameTooLong

_MAX_PATH_BYTES = 107
_BACKLOG = 1024
_UCRED = struct.Struct("3i")


class Listener:
    """Owns the socket and its name in the file system."""

    def __init__(self, path: str) -> None:
        """Raises FileExists (a server answers there, or it is another kind of file) and NameTooLong."""
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            raise NameTooLong(f"socket path of {len(os.fsencode(path))} bytes, the system's limit is {_MAX_PATH_BYTES}: {path}")
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _folder_lock(path):
                _remove_stale(path)
                self.socket.bind(path)
                os.chmod(path, 0o600)  # nobody could connect yet: it does not listen
                self._inode = os.stat(path).st_ino
                self.socket.listen(_BACKLOG)
        except BaseException:
            self.socket.close()
            raise
        self.socket.setblocking(False)

    def accept(self) -> socket.socket | None:
        """The next peer, None when there is none now. A stranger is turned away. Raises OSError when out of files."""
        try:
            sock, _ = self.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, os.geteuid()):
            sock.close()
            return None
        return sock

    def close(self) -> None:
        """Remove the name, if it is still ours. Idempotent."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)


@contextlib.contextmanager
def _folder_lock(path: str) -> Iterator[None]:
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExists(f"not a socket: {path}; choose another path or remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except OSError as e:
            raise FileExists(f"a server may be busy at {path}: {e}") from None
        else:
            raise FileExists(f"a server already answers at {path}; stop it, or choose another path")
