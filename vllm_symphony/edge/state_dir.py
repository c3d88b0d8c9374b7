"""The state directory: what outlives a server and a boot (edge/state_dir.py).

    tokens.json   hashed tokens, 0600 (token_file.py)
    tokens.lock   held while they are changed
    audit/        who did what (audit.py)

$SYMPHONY_STATE_DIR, else $XDG_STATE_HOME/symphony, else ~/.local/state/symphony; mode 0700. (The run directory may be a tmpfs.)
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vllm_symphony.errors import AccessDenied


def default_state_dir() -> Path:
    """The directory that a command without `--state-dir` uses."""
    if chosen := os.environ.get("SYMPHONY_STATE_DIR"):
        return Path(chosen)
    if state := os.environ.get("XDG_STATE_HOME"):
        return Path(state) / "symphony"
    return Path.home() / ".local" / "state" / "symphony"


def make_private(path: Path) -> None:
    """Make the directory if there is none, with mode 0700. Raises AccessDenied when it is another user's or cannot be made."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.geteuid():
            raise AccessDenied(f"the state directory {path} belongs to user {status.st_uid}, not to you", path=str(path))
        if stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as e:
        raise AccessDenied(f"cannot use the state directory {path}: {e.strerror}", path=str(path)) from None
