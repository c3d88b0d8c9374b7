"""A channel to the server (client/channel.py): plain or TLS, with the caller's token, and its version of the ABI, on each call.

    unix:PATH             plain
    loopback HOST:PORT    plain, or TLS where a `Tls` is given
    other HOST:PORT       TLS only: neither a token nor a program travels where others can read it

Both are headers of each call, put there as the stub makes the call. (Rejected: gRPC's call credentials, which refuse plain
channels; client interceptors, which put a task of their own between a stream and its reader.)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from vllm_symphony.abi.address import HostPort
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.client.address import Target
from vllm_symphony.errors import InvalidArgument

ABI_HEADER = "symphony-abi"  # as proto/status.py has it, which loads google.rpc
_MAX_MESSAGE_BYTES = 64 << 20
_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a new client inherits another's back-off after a failure
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own wait, below ours (retry.py); its default is a second at least
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # in gRPC's core this is how long one attempt may take: a busy server is not gone
)
_KEEPALIVE = (  # finds a connection that is open at one end only; the server allows pings from every 10 s on
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust and who to be; PEM files. `ca` None: the system's roots. `cert` and `key`: for servers that ask for one."""

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """All that it takes to reach a server. Raises InvalidArgument when it does not fit together."""

    target: Target
    token: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        where = self.target.where
        if isinstance(where, HostPort):
            if self.tls is None and not where.is_loopback:
                raise InvalidArgument(
                    f"{where} is another machine: use grpcs://{where} or give TLS files (plain text is for loopback)"
                )
        elif self.tls:
            raise InvalidArgument(f"TLS is for HOST:PORT, and {where} is a unix socket")

    def open(self, *, keepalive: bool = False) -> Any:
        """A grpc.aio.Channel, or what stubs take for one. `keepalive`: ping, so that a dead connection is noticed.

        Raises InvalidArgument when a TLS file cannot be read.
        """
        where, options = self.target.where, _OPTIONS + (_KEEPALIVE if keepalive else ())
        if isinstance(where, Path):
            channel = grpc.aio.insecure_channel(f"unix:{where}", options=options)
        elif self.tls:
            channel = grpc.aio.secure_channel(str(where), _credentials(self.tls), options=options)
        else:
            channel = grpc.aio.insecure_channel(str(where.literal), options=options)
        return _Labelled(channel, self.token)


def tls_for(target: Target, given: Tls | None = None) -> Tls | None:
    """The TLS of a connection: what was given, else SYMPHONY_TLS_CA, _CERT and _KEY, else the system's roots for grpcs://."""
    if given or not isinstance(target.where, HostPort):
        return given
    ca, cert, key = (os.environ.get(f"SYMPHONY_TLS_{name}") or None for name in ("CA", "CERT", "KEY"))
    return Tls(ca, cert, key) if ca or cert or key or target.tls else None


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    """Raises InvalidArgument when a file cannot be read or used: gRPC would only log it."""
    import ssl

    if (tls.cert is None) != (tls.key is None):
        raise InvalidArgument("a client certificate and its key go together: give both, or neither")
    ca, key, cert = _read(tls.ca), _read(tls.key), _read(tls.cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
        if tls.cert is not None and tls.key is not None:
            context.load_cert_chain(
                Path(tls.cert).expanduser(), Path(tls.key).expanduser(), password=lambda: ""
            )  # a locked key must not ask the terminal
    except (ssl.SSLError, OSError, ValueError) as e:
        files = ", ".join(os.fspath(path) for path in (tls.ca, tls.cert, tls.key) if path)
        why = (
            e.reason
            if isinstance(e, ssl.SSLError) and e.reason
            else "a certificate or a key without passphrase, in PEM, is missing"
        )
        raise InvalidArgument(f"TLS: {files} cannot be used: {why}") from None
    return grpc.ssl_channel_credentials(ca or _read(ssl.get_default_verify_paths().cafile), key, cert)


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as e:
        raise InvalidArgument(f"TLS: cannot read {os.fspath(path)}: {e.strerror}") from None


class _Labelled:
    """A channel whose calls say what ABI the caller speaks, and show its token; all that generated stubs use of a channel."""

    def __init__(self, channel: grpc.aio.Channel, token: str | None) -> None:
        self._channel = channel
        self._header: tuple[tuple[str, str], ...] = ((ABI_HEADER, f"{ABI_MAJOR}.{ABI_MINOR}"),)
        if token:
            self._header += (("authorization", f"Bearer {token}"),)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_header(self._channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_header(self._channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_header(self._channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        return self._with_header(self._channel.stream_stream(*args, **kwargs))

    async def close(self) -> None:
        await self._channel.close()

    def _with_header(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, metadata: Any = None, **kwargs: Any) -> Any:
            return make(*args, metadata=(*(metadata or ()), *self._header), **kwargs)

        return call
