"""Where a tool may call, and which addresses may be dialled (tools/origin.py).

    Place      scheme, host, port, beginning of the path       of a secret, of an entry of an allow-list
    Allowed    a place, and whether its host may have a private address
    check_address   refuses what is not on the public internet

A name says nothing about an address: whoever owns the name may point it into this machine's network, and change it between two
looks. So the address is looked up once, checked, and that address is dialled (tools/dial.py). IPv4 inside of IPv6 is checked as
what it is. Pure: nothing is looked up here.
Prior art: the SSRF rules of OWASP; ipaddress.is_global, which knows the registries but neither mapped addresses nor Azure's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2

from vllm_symphony.errors import AccessDenied, InvalidArgument

PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,62})\.)*[a-z0-9_][a-z0-9_-]{0,62}|[0-9a-f:.]{2,45}")
_METADATA = {ipaddress.ip_address("168.63.129.16")}  # Azure's, a public address that only machines there can reach
_SPECIAL = tuple(  # of the registries of special addresses; which of them `ipaddress` knows depends on Python's version
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20", "5f00::/16", "64:ff9b:1::/48"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_CLIMBS = re.compile(r"(^|[/\\])\.\.?($|[/\\;])")  # segments, once decoded, that a server may take for the folder above
_COMPATIBLE = ipaddress.ip_network("::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Place:
    """`host` is lower case, as DNS has it; `*.example.com` stands for all below it. `path` begins with /."""

    scheme: str
    host: str
    port: int
    path: str = "/"

    @classmethod
    def parse(cls, text: str) -> Place:
        """From "https://host:port/path". Raises InvalidArgument."""
        scheme, sep, rest = text.partition("://")
        if not sep or scheme not in PORTS:
            raise InvalidArgument(f"must begin with https:// or http://: {text!r}")
        wild = rest.startswith("*.")
        url = parse_url(f"{scheme}://{rest[2:] if wild else rest}")
        if url.query or url.fragment or "*" in url.host:
            raise InvalidArgument(f"has a query, a fragment or a * that does not stand for whole first labels: {text!r}")
        host = host_of(url)
        return cls(scheme, f"*.{host}" if wild else host, url.port or PORTS[scheme], url.path or "/")

    def covers(self, url: httpx2.URL) -> bool:
        """Is the url there? Paths are compared by whole segments."""
        host = host_of(url)
        fits = host.endswith(self.host[1:]) if self.host.startswith("*.") else host == self.host
        return (
            fits
            and (url.scheme, port_of(url)) == (self.scheme, self.port)
            and _is_below(url.path, self.path)
            and not (self.path != "/" and _CLIMBS.search(url.path))
        )


@dataclass(frozen=True, slots=True)
class Allowed:
    """One entry of an allow-list."""

    place: Place
    private: bool = False

    @classmethod
    def parse(cls, text: str, *, private: bool) -> Allowed:
        """Raises InvalidArgument; a private entry names exactly one host."""
        place = Place.parse(text)
        if private and place.host.startswith("*."):
            raise InvalidArgument(f"private is for one host, not for {place.host}")
        return cls(place, private)

    @classmethod
    def of_template(cls, template: str, *, private: bool) -> Allowed:
        """The place of a tool's own url with {holes}: all before the first hole."""
        parts = urlsplit(template)
        if re.search(r"[{}]", parts.scheme + parts.netloc):
            raise InvalidArgument(f"holes are for the path and what follows, not for the host: {template!r}")
        fixed = parts.path.partition("{")[0]
        folder = fixed if "{" not in parts.path else fixed[: fixed.rfind("/") + 1]
        return cls.parse(f"{parts.scheme}://{parts.netloc}{folder}", private=private)


def parse_url(text: str) -> httpx2.URL:
    """An absolute http(s) url without a user. Raises InvalidArgument."""
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, UnicodeError, ValueError) as e:
        raise InvalidArgument(f"no url: {text[:200]!r} ({e})") from None
    if url.scheme not in PORTS or not url.host:
        raise InvalidArgument(f"must begin with https:// or http:// and a host: {text[:200]!r}")
    if not _HOST.fullmatch(host_of(url)):
        raise InvalidArgument(f"no host: {url.host[:200]!r}")
    if url.userinfo:
        raise InvalidArgument("a url may not hold a user or a password")
    return url


def host_of(url: httpx2.URL) -> str:
    """As it is dialled: ASCII, lower case, without the dot at the end."""
    return url.raw_host.decode("ascii").lower().removesuffix(".")


def port_of(url: httpx2.URL) -> int:
    return url.port or PORTS[url.scheme]


def check_url(url: httpx2.URL, allow: Sequence[Allowed]) -> None:
    """Is the url in the list? Raises AccessDenied."""
    if not any(entry.place.covers(url) for entry in allow):
        where = f"{url.scheme}://{host_of(url)}:{port_of(url)}{url.path}"
        raise AccessDenied(f"{where[:300]} is not on the tool's allow-list", host=host_of(url), port=port_of(url))


def check_address(address: str, host: str, port: int, allow: Sequence[Allowed]) -> None:
    """May this address of `host` be dialled? Raises AccessDenied.

    An entry with `private` lets its host have a private or loopback address; link-local ones (metadata of clouds), multicast
    and the like only where the entry's host is that address itself.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if all(is_public(form) for form in _forms(ip)):
        return
    entries = [e for e in allow if e.private and (e.place.host, e.place.port) == (host, port)]
    literal = host.strip("[]") == str(ip)
    tame = all(is_public(form) or _is_internal(form) for form in _forms(ip))
    if not entries or not (tame or literal):
        raise AccessDenied(f"{host} has the address {ip}, which is not public", host=host, address=str(ip))


def is_public(ip: Address) -> bool:
    """Is it somewhere on the internet, and nobody's metadata service?"""
    wrong = ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_link_local or ip.is_loopback or ip.is_private
    site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    special = ip in _METADATA or any(ip in net for net in _SPECIAL)
    return ip.is_global and not wrong and not site_local and not special


def _is_internal(ip: Address) -> bool:
    """Loopback, or of a private network; not what has a special meaning."""
    special = ip.is_multicast or ip.is_unspecified or ip.is_link_local or (ip.is_reserved and not ip.is_loopback)
    return not special and (ip.is_loopback or ip.is_private) and ip not in _METADATA


def _forms(ip: Address) -> list[Address]:
    """The address, and the IPv4 address that it carries."""
    if isinstance(ip, ipaddress.IPv4Address):
        return [ip]
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 0xFFFF):
        return [ip, ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)]
    return [ip]


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")
