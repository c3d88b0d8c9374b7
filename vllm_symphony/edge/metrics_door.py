"""The Prometheus door of a server without HTTP (edge/metrics_door.py): `symphony serve --metrics 127.0.0.1:9464`.

    scrape -> prometheus_client's own small server, a thread a request -> our event loop asks the kernel -> text

The thread waits, the loop does not. The numbers have no names of anybody, so whoever reaches the address may read them; only
loopback is allowed, or TLS with the server's certificate (and clients' certificates, where it has a CA for them).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.address import HostPort, host_port
from vllm_symphony.abi.types import MetricSample
from vllm_symphony.edge.door import why_not
from vllm_symphony.edge.meter import ANSWER_S, DOORS, fresh
from vllm_symphony.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from vllm_symphony.edge.kernel_link import KernelLink
    from vllm_symphony.edge.tls import ServerTls

_log = logging.getLogger("symphony.edge")


class MetricsDoor:
    """One address. Made and opened in the loop that also calls the kernel."""

    def __init__(self, where: str, tls: ServerTls | None, kernel: KernelLink) -> None:
        """Raises InvalidArgument: no address, or one that needs TLS."""
        self._where = host_port(where).literal
        if tls is None and not self._where.is_loopback:
            raise InvalidArgument(
                f"--metrics {self._where} can be reached from outside: give --tls-cert FILE and --tls-key FILE, or listen on "
                f"127.0.0.1:{self._where.port}",
                address=str(self._where),
            )
        self._tls = tls
        self._kernel = kernel
        self._server: Any = None
        self._thread: Any = None
        self.address = ""  # once it is open

    def open(self) -> None:
        """Listen. Raises NotSupported without prometheus_client; FileExists, AccessDenied, InvalidArgument: not there."""
        try:
            from prometheus_client import CollectorRegistry, start_http_server

            from vllm_symphony.edge.figures import Figures
        except ImportError:
            raise NotSupported("--metrics needs the package prometheus-client: pip install prometheus-client") from None
        loop = asyncio.get_running_loop()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Figures(lambda: self._look(loop)))
        files: dict[str, Any] = {}
        if self._tls is not None:
            ca = self._tls.client_ca
            files = {"certfile": str(self._tls.cert), "keyfile": str(self._tls.key), "client_auth_required": ca is not None}
            files |= {"client_cafile": str(ca)} if ca else {}
        try:
            self._server, self._thread = start_http_server(self._where.port, self._where.host, registry, **files)
        except OSError:
            raise why_not(self._where) from None
        port = self._server.server_address[1]
        self.address = f"{'https' if self._tls else 'http'}://{HostPort(self._where.host, port)}/metrics"
        _log.info("metrics at %s", self.address)

    def close(self) -> None:
        """Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self._thread.join()

    def _look(self, loop: asyncio.AbstractEventLoop) -> Sequence[MetricSample]:
        """On the thread of a scrape."""
        if loop.is_closed():
            return DOORS.samples()
        asked = asyncio.run_coroutine_threadsafe(fresh(self._kernel), loop)
        try:
            return asked.result(2 * ANSWER_S)
        except TimeoutError:
            asked.cancel()
            return DOORS.samples()
