"""The Prometheus door of a server without HTTP (edge/metrics_door.py): `symphony serve --metrics 127.0.0.1:9464`.

    scrape -> a small HTTP server, a thread a request -> our event loop asks the kernel -> text

The thread waits, the loop does not. The numbers have no names of anybody, so whoever reaches the address may read them; only
loopback is allowed, or TLS with the server's certificate (and clients' certificates, where it has a CA for them).
"""

from __future__ import annotations

import asyncio
import logging
import threading
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
            from prometheus_client import CollectorRegistry

            from vllm_symphony.edge.figures import Figures
            from vllm_symphony.edge.scrape_server import scrape_server
        except ImportError:
            raise NotSupported("--metrics needs the package prometheus-client: pip install prometheus-client") from None
        loop = asyncio.get_running_loop()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Figures(lambda: self._look(loop)))
        context = self._tls.context("--metrics") if self._tls else None
        try:
            self._server = scrape_server(self._where.host, self._where.port, registry, context)
        except OSError:
            raise why_not(self._where) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="symphony-metrics", daemon=True)
        self._thread.start()
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
