"""Whose page a request comes from (web/site.py): the browser's part of the door.

A page of another site can make a browser send requests here, and one whose name was made to point here (DNS rebinding) can read the
answers. So where more than plain OpenAI is asked for, `Host` must be a name of this server, and `Origin` absent or the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from vllm_symphony.errors import AccessDenied

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Site:
    """The names of this server, beside the address that a request has come to."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = LOOPBACK | {name.lower().strip("[]") for name in names}

    def demand_own(self, host: str, origin: str | None, address: str | None) -> None:
        """`host`, `origin`: the headers; `address`: where the connection came in. Raises AccessDenied."""
        name = _name_of(host)
        if name is None or (name not in self._names and name != address):
            raise AccessDenied(f"Host {host[:100]!r} is no name of this server (`--allowed-host NAME` adds one)", header="Host")
        if origin is not None and _site_of(origin) != _site_of(f"http://{host}"):
            raise AccessDenied(f"Origin {origin[:100]!r} is another site than {host[:100]!r}", header="Origin")


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _site_of(origin: str) -> tuple[str | None, int | None] | None:
    """Name and port, whatever the scheme: TLS may end before us. None for what is none, as `null`."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https"):
        return None
    return parts.hostname, None if port in (80, 443) else port
