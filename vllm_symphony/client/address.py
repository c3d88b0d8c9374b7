"""Where the server listens (client/address.py).

    SYMPHONY_SOCKET                          the socket itself
    SYMPHONY_RUN_DIR / symphony.sock         else: the run directory
    $XDG_RUNTIME_DIR/symphony/symphony.sock  else
    ~/.symphony/run/symphony.sock            else

Server and clients read this one file, so they meet without being told.
"""

from __future__ import annotations

import os
from pathlib import Path

from vllm_symphony.errors import NameTooLong

SOCKET_NAME = "symphony.sock"
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without its final zero


def default_run_dir() -> Path:
    """The directory that a server without `--run-dir` uses."""
    if chosen := os.environ.get("SYMPHONY_RUN_DIR"):
        return Path(chosen)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "symphony"
    return Path.home() / ".symphony" / "run"


def default_socket() -> Path:
    """The socket that a client without a target uses."""
    if chosen := os.environ.get("SYMPHONY_SOCKET"):
        return Path(chosen.removeprefix("unix:"))
    return default_run_dir() / SOCKET_NAME


def check_socket_path(path: Path) -> Path:
    """The path, absolute. Raises NameTooLong when a unix socket cannot have it."""
    path = path.expanduser().absolute()
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH_BYTES:
        raise NameTooLong(
            f"socket path of {size} bytes, the system's limit is {MAX_SOCKET_PATH_BYTES}: {path} (choose a shorter run directory)",
            path=str(path),
            limit=MAX_SOCKET_PATH_BYTES,
        )
    return path
