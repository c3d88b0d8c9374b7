"""Doors: where the server listens, and what each needs (edge/door.py).

    address                        needs                                    who gets in
    unix:PATH                      nothing: the socket has mode 0600        the server's own user; tokens
    127.0.0.1:P localhost:P [::1]:P   nothing; may have TLS                 tokens, the server's own one too
    any other HOST:P               --tls-cert and --tls-key                 tokens; certificates of --tls-client-ca

With TLS files all TCP doors speak TLS. What does not fit is refused before anything starts: running a program is code execution.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vllm_symphony.abi.address import HostPort, check_socket_path, host_port
from vllm_symphony.edge.tls import ServerTls
from vllm_symphony.errors import AccessDenied, FileExists, InvalidArgument, SymphonyError


@dataclass(frozen=True, slots=True)
class Door:
    """One address to listen on."""

    where: Path | HostPort
    tls: ServerTls | None = None

    @property
    def is_loopback(self) -> bool:
        return isinstance(self.where, HostPort) and self.where.is_loopback


def doors(addresses: Sequence[str], tls: ServerTls | None, *, has_http: bool = False) -> tuple[Door, ...]:
    """The doors of `--listen`. `has_http`: TLS is for vLLM's door, too.

    Raises:
        InvalidArgument: an address is none, or needs TLS, or TLS has no address.
        NameTooLong: a socket's path is.
    """
    found = tuple(_door(address, tls) for address in addresses)
    if tls and not has_http and not any(door.tls for door in found):
        raise InvalidArgument("TLS is for TCP: add --listen HOST:PORT, or leave --tls-cert, --tls-key and --tls-client-ca out")
    return found


def _door(address: str, tls: ServerTls | None) -> Door:
    if address.startswith("unix:"):
        return Door(check_socket_path(Path(address.removeprefix("unix:"))))
    where = host_port(address).literal
    if tls is None and not where.is_loopback:
        raise InvalidArgument(
            f"{where} can be reached from outside: give --tls-cert FILE and --tls-key FILE, or listen on 127.0.0.1 or unix:PATH",
            address=str(where),
        )
    return Door(where, tls)


def clear(path: Path) -> None:
    """Make a socket's path free: take away what a dead server left there.

    Raises:
        FileExists: a server listens there, or something that is no socket has the name.
        AccessDenied: the folder is missing, may not be written, or is writable by everybody.
    """
    try:
        folder = path.parent.stat()
    except OSError as e:
        why = "does not exist" if isinstance(e, FileNotFoundError) else f"cannot be used: {e.strerror}"
        raise AccessDenied(f"cannot listen on {path}: the directory {why}", path=str(path)) from None
    if folder.st_mode & 0o002 and not folder.st_mode & stat.S_ISVTX:
        raise AccessDenied(
            f"cannot listen on {path}: everybody may write the directory, and put their own socket there", path=str(path)
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise AccessDenied(f"cannot listen on {path}: the directory may not be written", path=str(path))
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExists(f"cannot listen on {path}: there is a file of that name, and it is no socket", path=str(path))
        if _is_answered(path):
            raise FileExists(f"a server already listens on {path}", path=str(path))
        path.unlink()


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def why_not(where: HostPort) -> SymphonyError:
    """The error for a TCP address that could not be bound; gRPC itself does not tell why."""
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as e:
        return InvalidArgument(f"cannot listen on {where}: {e.strerror}", address=str(where))
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as e:
            if e.errno == errno.EADDRINUSE:
                return FileExists(
                    f"cannot listen on {where}: the port is taken; choose another, or 0 for a free one", port=where.port
                )
            if e.errno == errno.EACCES:
                return AccessDenied(f"cannot listen on {where}: ports below 1024 are for root", port=where.port)
            return InvalidArgument(f"cannot listen on {where}: {e.strerror}", address=str(where))
    return InvalidArgument(f"cannot listen on {where}", address=str(where))
