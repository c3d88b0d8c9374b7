"""The server's side of TLS (edge/tls.py): the files of --tls-cert, --tls-key, --tls-client-ca, proven before anything starts.

With a client CA every client must show a certificate that it signed. gRPC speaks TLS 1.2 and up. The files are read once: new ones
count from the next start.
"""

from __future__ import annotations

import logging
import os
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

import grpc

from vllm_symphony.errors import InvalidArgument

_log = logging.getLogger("symphony.edge")


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Certificate chain, its key, and who signs clients' certificates; PEM."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """Raises InvalidArgument, naming the flag, when a file cannot be read or used, or key and certificate do not fit."""
        cert, key = _read("--tls-cert", self.cert), _read("--tls-key", self.key)
        client_ca = _read("--tls-client-ca", self.client_ca) if self.client_ca else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key, password=lambda: "")  # a locked key must not ask the terminal
        except (ssl.SSLError, OSError, ValueError) as e:
            why = (
                e.reason if isinstance(e, ssl.SSLError) and e.reason else "a key with a passphrase cannot be used, or it is no PEM"
            )
            raise InvalidArgument(f"--tls-cert {self.cert} and --tls-key {self.key} make no pair: {why}") from None
        if self.client_ca:
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, OSError) as e:
                why = getattr(e, "reason", None) or "it is no PEM"
                raise InvalidArgument(f"--tls-client-ca {self.client_ca} holds no certificate: {why}") from None
        if stat.S_IMODE(os.stat(self.key).st_mode) & 0o077:
            _log.warning("others may use the key %s: chmod 600 it", self.key)
        return grpc.ssl_server_credentials([(key, cert)], client_ca, client_ca is not None)


def server_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    """What the flags say; None without any. Raises InvalidArgument when one lacks its other."""
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise InvalidArgument(
            f"TLS needs a certificate and its key: {'--tls-cert' if cert is None else '--tls-key'} FILE is missing"
        )
    return ServerTls(cert, key, client_ca)


def _read(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InvalidArgument(f"{flag}: cannot read {path}: {e.strerror}") from None
