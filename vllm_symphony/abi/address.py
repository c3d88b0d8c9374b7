"""Addresses: a unix socket's path, or HOST:PORT (abi/address.py).

What is loopback is decided by the text alone, never by a lookup: 127.0.0.0/8, ::1, and the word `localhost`, which stands for
127.0.0.1. All else counts as reachable by others: wildcards, names, IPv4 addresses mapped into IPv6, short forms like 127.1.

An address that holds a token, or anything before an @, is refused without being repeated.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vllm_symphony.errors import InvalidArgument, NameTooLong

SOCKET_NAME = "symphony.sock"
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without its final zero
MAX_PORT = 65535
TOKEN_PREFIX = "sym_"  # every token begins so, which lets scanners find a lost one
_TOKEN = re.compile(rf"{TOKEN_PREFIX}[0-9a-f]{{6,}}")
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})")

_NO_SECRETS = "an address holds no user and no token: give the token by SYMPHONY_TOKEN or a token file"


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address; an IPv6 literal is kept without its brackets. Port 0, where one listens: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only this machine reaches it."""
        from ipaddress import ip_address

        try:
            return self.host.lower() == "localhost" or ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False

    @property
    def literal(self) -> HostPort:
        """Itself with `localhost` made an address, so that no lookup has a say in what is loopback."""
        return HostPort("127.0.0.1", self.port) if self.host.lower() == "localhost" else self


def host_port(text: str) -> HostPort:
    """Raises InvalidArgument when it is none."""
    from ipaddress import AddressValueError, IPv6Address

    refuse_secrets(text)
    if "@" in text:
        raise InvalidArgument(_NO_SECRETS)
    match = _HOST_PORT.fullmatch(text)
    if match is None or int(match[3]) > MAX_PORT:
        raise InvalidArgument(f"no address: {text!r} (HOST:PORT, [IPV6]:PORT with a port up to {MAX_PORT}, or unix:PATH)")
    if match[1]:
        try:
            IPv6Address(match[1])
        except AddressValueError:
            raise InvalidArgument(f"no IPv6 address: [{match[1]}]") from None
    return HostPort(match[1] or match[2], int(match[3]))


def refuse_secrets(address: str) -> None:
    """Raises InvalidArgument, without repeating the text, when a token stands in an address."""
    if _TOKEN.search(address):
        raise InvalidArgument(_NO_SECRETS)


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


def default_run_dir() -> Path:
    """The directory that a server without `--run-dir` uses, and a client looks in."""
    if chosen := os.environ.get("SYMPHONY_RUN_DIR"):
        return Path(chosen)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "symphony"
    return Path.home() / ".symphony" / "run"
