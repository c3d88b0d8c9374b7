"""The token that a client shows (client/token.py).

    connect(token=...)                 the text itself
    SYMPHONY_TOKEN                     else
    SYMPHONY_TOKEN_FILE                else: the first line of that file
    token in the run directory         else, where the target is loopback: what the server of this user laid there (mode 0600),
                                       if it says that it listens on that port
    none                               else: on the unix socket the caller is the server's own user

A token that was given counts on the unix socket too. It is never repeated in an error, and no command line holds one.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from vllm_symphony.abi.address import HostPort
from vllm_symphony.client.address import TOKEN_NAME, Target, default_run_dir
from vllm_symphony.errors import AccessDenied, InvalidArgument

_SENDABLE = re.compile(r"[\x21-\x7e]+")  # what a header may hold; gRPC's own complaint would repeat it


def token_for(target: Target, given: str | None = None) -> str | None:
    """The token for this target.

    Raises:
        InvalidArgument: it is no token.
        AccessDenied: a token file cannot be read, or the run directory's is not private.
    """
    text = given or os.environ.get("SYMPHONY_TOKEN")
    if not text and (file := os.environ.get("SYMPHONY_TOKEN_FILE")):
        return token_in(Path(file))
    if not text:
        return _own_token(target.where) if isinstance(target.where, HostPort) and target.where.is_loopback else None
    return _sendable(text, "the token")


def token_in(path: Path) -> str:
    """The token in a file: its first line. Raises as `token_for`."""
    try:
        return _first_line(path.expanduser().read_bytes(), path)
    except OSError as e:
        raise AccessDenied(f"cannot read the token file {path}: {e.strerror}", path=str(path)) from None


def _own_token(where: HostPort) -> str | None:
    """What the server of this user laid into the run directory, if it listens on that port."""
    path = default_run_dir().expanduser() / TOKEN_NAME
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            status = os.fstat(file.fileno())
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid != os.geteuid() or mode & 0o077:
                raise AccessDenied(
                    f"{path} must be yours with mode 0600 (user {status.st_uid}, mode 0{mode:o}): another user may have put "
                    "it there; remove it, and start the server again",
                    path=str(path),
                )
            data = file.read()
    except FileNotFoundError:
        return None
    except OSError as e:
        raise AccessDenied(f"cannot read {path}: {e.strerror}", path=str(path)) from None
    ports = {line.rpartition(":")[2] for line in data.decode(errors="replace").splitlines()[1:] if not line.startswith("unix:")}
    return _first_line(data, path) if str(where.port) in ports else None


def _first_line(data: bytes, path: Path) -> str:
    return _sendable(data.decode(errors="replace").partition("\n")[0], f"what {path} begins with")


def _sendable(text: str, what: str) -> str:
    if not _SENDABLE.fullmatch(text.strip()):
        raise InvalidArgument(f"{what} is no token: one line without spaces is expected")
    return text.strip()
