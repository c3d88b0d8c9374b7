"""The server's side of TLS (edge/tls.py): the files of --tls-cert, --tls-key, --tls-client-ca, proven before anything starts.

    files -> read -> a handshake with ourselves, in memory -> what gRPC is given
                       key and chain fit, the certificate is valid today and for a server

With a client CA every client must show a certificate that it signed. TLS is 1.2 and up. Before each handshake the files are looked
at (stat): new ones count from then on for new connections; ones that cannot be used are told in the log, and the old ones stay.
"""

from __future__ import annotations

import logging
import os
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from vllm_symphony.errors import InvalidArgument

WARN_S = 14 * 86400  # before a certificate ends
_log = logging.getLogger("symphony.edge")


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Certificate chain, its key, and who signs clients' certificates; PEM."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC; they follow the files.

        Raises InvalidArgument, naming the flag: a file cannot be read or used, key and certificate do not fit, it is not valid now.
        """
        fresh = _Fresh(self, self.signature())
        first = self.load()
        if stat.S_IMODE(os.stat(self.key).st_mode) & 0o077:
            _log.warning("others may use the key %s: chmod 600 it", self.key)
        changed: Any = fresh.changed  # may give None: its stub does not say so
        return grpc.dynamic_ssl_server_credentials(first, changed, self.client_ca is not None)

    def load(self) -> grpc.ServerCertificateConfiguration:
        """The files as they are now. Raises as `credentials`."""
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
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.cert, self.key)
        left_s = _ends_s(context, self.cert) - time.time()
        if left_s < WARN_S:
            _log.warning("the certificate %s ends in %.1f days", self.cert, left_s / 86400)
        return grpc.ssl_server_certificate_configuration([(key, cert)], client_ca)

    def context(self, door: str) -> ssl.SSLContext:
        """For a door that Python's ssl keeps, of the files as they are now. Raises InvalidArgument, naming the door."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, OSError) as error:
            raise InvalidArgument(f"the TLS files cannot be used for {door}: {error}") from None
        return context

    def of_vllm(self) -> tuple[str, ...]:
        """The same for vLLM's HTTP server, which follows the files too."""
        words = ("--ssl-certfile", str(self.cert), "--ssl-keyfile", str(self.key), "--enable-ssl-refresh")
        return (*words, "--ssl-ca-certs", str(self.client_ca), "--ssl-cert-reqs", "2") if self.client_ca else words

    def signature(self) -> tuple[object, ...]:
        """Other than before where a file was changed."""
        return tuple(_signature(path) for path in (self.cert, self.key, self.client_ca) if path)


@dataclass(slots=True)
class _Fresh:
    """Looks for new files. gRPC asks it before each handshake, in a thread of its own."""

    tls: ServerTls
    seen: tuple[object, ...]

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What counts from now on; None: as before."""
        seen = self.tls.signature()
        if seen == self.seen:
            return None
        self.seen = seen
        try:
            config = self.tls.load()
        except InvalidArgument as e:
            _log.error("the new TLS files cannot be used, the old ones stay: %s", e.message)
            return None
        _log.info("new TLS files: %s", self.tls.cert)
        return config


def server_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> ServerTls | None:
    """What the flags say; None without any. Raises InvalidArgument when one lacks its other."""
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise InvalidArgument(
            f"TLS needs a certificate and its key: {'--tls-cert' if cert is None else '--tls-key'} FILE is missing"
        )
    return ServerTls(cert, key, client_ca)


def _ends_s(server: ssl.SSLContext, cert: Path) -> float:
    """When the certificate ends, by a client that trusts nothing else. Raises InvalidArgument where that would not talk to us."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(cert)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = server.wrap_bio(there, back, server_side=True), client.wrap_bio(back, there)
    try:
        for side in (theirs, ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        shown = theirs.getpeercert()
    except ssl.SSLCertVerificationError as e:
        raise InvalidArgument(f"--tls-cert {cert}: no client would take it: {e.verify_message}") from None
    except (ssl.SSLError, ValueError) as e:
        raise InvalidArgument(f"--tls-cert {cert} cannot be used: {getattr(e, 'reason', None) or e}") from None
    assert shown is not None
    return ssl.cert_time_to_seconds(str(shown["notAfter"]))


def _signature(path: Path) -> object:
    try:
        s = os.stat(path)
    except OSError as e:
        return e.errno
    return s.st_mtime_ns, s.st_size, s.st_ino


def _read(flag: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InvalidArgument(f"{flag}: cannot read {path}: {e.strerror}") from None
