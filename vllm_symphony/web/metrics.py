"""`/metrics` of vLLM's server, with ours beside vLLM's (web/metrics.py); and what is counted at the HTTP door.

    GET /metrics -> the kernel is asked (KernelLink, this loop) -> vLLM's registry + ours -> text, made on a thread of the pool

vLLM has a route and a mount for it, both over its registry; ours takes the place of both. vLLM's registry may be one of several
processes (PROMETHEUS_MULTIPROC_DIR): then it is made anew for each look, as vLLM does, and ours stand beside it, asked live. A
kernel that does not answer leaves ours out, never vLLM's.
Source: vllm/entrypoints/serve/instrumentator/metrics.py (0.32).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, request_response

from vllm_symphony.edge.figures import Figures, with_colons
from vllm_symphony.edge.meter import DOORS, fresh
from vllm_symphony.trace.metrics import CODE

if TYPE_CHECKING:
    from vllm_symphony.edge.kernel_link import KernelLink

PATH = "/metrics"


def attach(app: Any, link: Callable[[], KernelLink | None]) -> None:
    """Take the place of vLLM's route and mount. `link`: to the kernel, once there is one."""

    async def metrics(request: Request) -> Response:
        kernel = link()
        samples = await fresh(kernel) if kernel is not None else DOORS.samples()
        return await run_in_threadpool(_answer, request, samples)

    app.add_api_route(PATH, metrics, methods=["GET"], include_in_schema=False)
    for route in app.routes:
        if isinstance(route, Mount) and route.path == PATH:
            route.app = request_response(metrics)


def _answer(request: Request, samples: Collection[Any]) -> Response:
    from vllm.v1.metrics.prometheus import get_prometheus_registry

    encode, content_type = choose_encoder(with_colons(request.headers.get("accept", "")))
    names = frozenset(request.query_params.getlist("name[]"))
    beside = _Beside(get_prometheus_registry(), Figures(lambda: samples), names)
    return Response(encode(beside), headers={"content-type": content_type})


class _Beside(Collector):
    """Two collectors as one; of `names` only, where some are asked for."""

    def __init__(self, theirs: Collector, ours: Collector, names: frozenset[str]) -> None:
        self._both = (theirs, ours)
        self._names = names

    def collect(self) -> Iterator[Family]:
        for collector in self._both:
            yield from collector.collect() if not self._names else self._only(collector.collect())

    def _only(self, families: Iterable[Family]) -> Iterator[Family]:
        for family in families:
            kept = [sample for sample in family.samples if sample.name in self._names]
            if kept:
                only = Family(family.name, family.documentation, family.type, family.unit)
                only.samples = kept
                yield only


class Counted:
    """The outermost ASGI middleware: requests by status, and how long those with one answer took."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, num_parts = time.perf_counter(), 0, 0
        DOORS.began("http")

        async def told(message: Any) -> None:
            nonlocal status, num_parts
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                num_parts += 1
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            DOORS.ended("http", _code(status), time.perf_counter() - began if num_parts == 1 else None)


def _code(status: int) -> str:
    """A value of the label; 0: the client hung up first."""
    if str(status) in CODE:
        return str(status)
    return f"{status // 100}xx" if 2 <= status // 100 <= 5 else "CANCELLED"
