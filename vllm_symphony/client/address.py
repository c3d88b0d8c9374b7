"""Where the server listens (client/address.py).

    SYMPHONY_SERVER                          any target: unix:PATH, HOST:PORT, grpcs://HOST:PORT
    SYMPHONY_SOCKET                          else: the socket itself
    SYMPHONY_RUN_DIR / symphony.sock         else: the run directory
    $XDG_RUNTIME_DIR/symphony/symphony.sock  else
    ~/.symphony/run/symphony.sock            else

Server and clients read this one file, so they meet without being told.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vllm_symphony.abi.address import SOCKET_NAME, HostPort, check_socket_path, default_run_dir, host_port, refuse_secrets
from vllm_symphony.errors import InvalidArgument

__all__ = ["SOCKET_NAME", "TOKEN_NAME", "Target", "check_socket_path", "default_run_dir", "default_socket", "target_of"]

TOKEN_NAME = "token"  # the server's own token, in the run directory


@dataclass(frozen=True, slots=True)
class Target:
    """A server's address. `tls`: it was written as grpcs://."""

    where: Path | HostPort
    tls: bool = False

    def __str__(self) -> str:
        return str(self.where)


def default_socket() -> Path:
    """The socket that a client without a target uses."""
    if chosen := os.environ.get("SYMPHONY_SOCKET"):
        return Path(chosen.removeprefix("unix:"))
    return default_run_dir() / SOCKET_NAME


def target_of(target: str | os.PathLike[str] | None = None) -> Target:
    """What a target means: a path object, or text that begins with unix: or has a slash, is a socket; HOST:PORT is TCP.

    Raises:
        InvalidArgument: it is of another scheme, no address, or holds a token.
        NameTooLong: a socket's path is.
    """
    if target is None:
        target = os.environ.get("SYMPHONY_SERVER") or default_socket()
    text = os.fspath(target)
    refuse_secrets(text)
    if not isinstance(target, str) or text.startswith("unix:"):
        return Target(check_socket_path(Path(text.removeprefix("unix:"))))
    if text.startswith("grpcs://"):
        return Target(host_port(text.removeprefix("grpcs://").removesuffix("/")), tls=True)
    if "://" in text:
        raise InvalidArgument(f"no such scheme: {text.partition('://')[0]} (unix:PATH, HOST:PORT, grpcs://HOST:PORT)")
    if ":" in text and "/" not in text:
        return Target(host_port(text))
    return Target(check_socket_path(Path(text)))
