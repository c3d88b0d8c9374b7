"""The run directory: one server's sockets, lock and log (edge/run_dir.py).

    symphony.sock   gRPC, 0600
    kernel.sock     the kernel's own, 0600
    server.lock     held by flock as long as the server lives, with its process id
    kernel.log      what the kernel host prints, where it is not shown

The directory has mode 0700 and belongs to the server's user. The lock ends with the process, so a killed server leaves nothing that
stops the next one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_symphony.errors import AccessDenied, FileExists


@contextmanager
def claim(path: Path) -> Iterator[None]:
    """Make the directory if there is none, and hold its lock.

    Raises:
        FileExists: another server runs there.
        AccessDenied: the directory cannot be made or written, or is another user's.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise AccessDenied(f"the run directory {path} belongs to user {status.st_uid}, not to you", path=str(path))
        if stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(0o700)
        fd = os.open(path / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise AccessDenied(f"cannot use the run directory {path}: {e.strerror}", path=str(path)) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode(errors="replace").strip() or "?"
            raise FileExists(
                f"a server already runs in {path} (process {owner}): stop it, or choose another with --run-dir", path=str(path)
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(fd)
