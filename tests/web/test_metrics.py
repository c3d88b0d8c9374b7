"""/metrics of vLLM's server with ours beside, on an app that has it as vLLM has; and the middleware that counts."""

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, make_asgi_app
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from starlette.routing import Mount
from starlette.testclient import TestClient

from vllm_symphony.abi.calls import MetricsResult
from vllm_symphony.abi.types import MetricSample
from vllm_symphony.edge import meter
from vllm_symphony.edge.meter import DoorMeter
from vllm_symphony.errors import DeviceLost
from vllm_symphony.web import metrics

STEPS = MetricSample("symphony:engine_steps_total", 7.0)


class Kernel:
    """A link to a kernel; `lost`: nobody answers."""

    lost = False

    async def call(self, op: str, args: Any, cred: Any) -> MetricsResult:
        if self.lost:
            raise DeviceLost("gone")
        return MetricsResult((STEPS,))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """vLLM's, with one metric; its module is not imported, for that takes a minute."""
    made = CollectorRegistry()
    Counter("vllm:generation_tokens", "Tokens.", registry=made).inc(3)
    module = ModuleType("vllm.v1.metrics.prometheus")
    module.get_prometheus_registry = lambda: made  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.v1", "vllm.v1.metrics"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.v1.metrics.prometheus", module)
    return made


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def client(registry: CollectorRegistry, kernel: Kernel) -> TestClient:
    """vLLM's app: a mount for its registry, then our plugin."""
    app = FastAPI()
    app.routes.append(Mount("/metrics", make_asgi_app(registry=registry)))
    metrics.attach(app, lambda: kernel)  # type: ignore[arg-type,return-value]
    return TestClient(app)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
def test_ours_stand_beside_vllms(client: TestClient, path: str) -> None:
    text = client.get(path).text

    assert "vllm:generation_tokens_total 3.0" in text and "symphony:engine_steps_total 7.0" in text


def test_openmetrics_has_both_with_their_colons(client: TestClient) -> None:
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics(answer.text)} == {"vllm:generation_tokens", "symphony:engine_steps"}


def test_one_of_ours_or_of_vllms_can_be_asked_for(client: TestClient) -> None:
    ours = client.get("/metrics", params={"name[]": "symphony:engine_steps_total"}).text
    theirs = client.get("/metrics", params={"name[]": "vllm:generation_tokens_total"}).text

    assert "symphony:engine_steps_total 7.0" in ours and "vllm:" not in ours
    assert "vllm:generation_tokens_total 3.0" in theirs and "symphony:" not in theirs


def test_a_kernel_that_is_gone_takes_nothing_of_vllms_away(client: TestClient, kernel: Kernel) -> None:
    kernel.lost = True
    text = client.get("/metrics").text

    assert "vllm:generation_tokens_total 3.0" in text and "engine_steps" not in text


def test_before_there_is_a_kernel_vllms_are_shown(registry: CollectorRegistry) -> None:
    app = FastAPI()
    metrics.attach(app, lambda: None)

    assert "vllm:generation_tokens_total 3.0" in TestClient(app).get("/metrics").text


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> DoorMeter:
    made = DoorMeter()
    monkeypatch.setattr(meter, "DOORS", made)
    monkeypatch.setattr(metrics, "DOORS", made)
    return made


def requests(app: Any) -> None:
    """One request to a bare ASGI app behind the middleware."""

    async def once() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            pass

        await metrics.Counted(app)({"type": "http"}, receive, send)

    asyncio.run(once())


def answering(status: int, *parts: bytes) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": part is not parts[-1]})

    return app


def test_requests_are_counted_by_code_rare_ones_by_class(doors: DoorMeter) -> None:
    for status in (200, 204, 404, 418, 599):
        requests(answering(status, b"x"))

    assert {code: count for (_, code), count in doors.requests.items()} == {"2xx": 2, "404": 1, "4xx": 1, "5xx": 1}
    assert doors.in_flight["http",] == 0


def test_a_streams_length_is_not_a_requests(doors: DoorMeter) -> None:
    requests(answering(200, b"one"))
    requests(answering(200, b"one", b"two", b"three"))

    counts = {s.name: s.value for s in doors.seconds["http"].samples() if s.name.endswith("_count")}
    assert counts == {"symphony:request_seconds_count": 1}


def test_one_that_fails_before_it_answers_is_counted_too(doors: DoorMeter) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        requests(app)

    assert doors.requests == {("http", "CANCELLED"): 1} and doors.in_flight["http",] == 0
