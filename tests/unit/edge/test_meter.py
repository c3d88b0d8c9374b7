"""What a door counts of itself, and how the kernel hears of it."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from vllm_symphony.abi.calls import MetricsResult
from vllm_symphony.abi.types import MetricSample
from vllm_symphony.edge import concern, meter
from vllm_symphony.edge.concern import counted
from vllm_symphony.edge.figures import Figures, with_colons
from vllm_symphony.edge.meter import CountLines, DoorMeter, fresh, report
from vllm_symphony.errors import DeviceLost
from vllm_symphony.trace.metrics import METRICS, SAMPLES

SERVED = MetricSample("symphony:engine_steps_total", 7.0)


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> DoorMeter:
    made = DoorMeter()
    for module in (meter, concern):
        monkeypatch.setattr(module, "DOORS", made)
    return made


def numbers(doors: DoorMeter) -> dict[tuple[str, ...], float]:
    return {(s.name, *(s.labels[label] for label in sorted(s.labels))): s.value for s in doors.samples()}


class Kernel:
    """A link to a kernel that says what it is told to, and remembers what it was told."""

    def __init__(self, *, fails: bool = False, hangs: bool = False) -> None:
        self.reports: list[tuple[MetricSample, ...]] = []
        self.fails, self.hangs = fails, hangs

    async def call(self, op: str, args: Any, cred: Any) -> MetricsResult:
        assert op == "metrics" and cred.is_admin
        if self.fails:
            raise DeviceLost("gone")
        if self.hangs:
            await asyncio.Event().wait()
        self.reports.append(args.reported)
        return MetricsResult((SERVED, *args.reported))


async def rpc(method: str, error: BaseException | None = None) -> None:
    context = SimpleNamespace(code=lambda: grpc.StatusCode.NOT_FOUND)
    async with counted({"/symphony.v1.S/Stream"})(method, context):
        assert meter.DOORS.in_flight["grpc",] == 1
        if error is not None:
            raise error


def test_an_rpc_is_counted_by_its_status_and_its_length(doors: DoorMeter) -> None:
    asyncio.run(rpc("/symphony.v1.S/One"))
    with pytest.raises(RuntimeError):
        asyncio.run(rpc("/symphony.v1.S/One", RuntimeError()))

    found = numbers(doors)
    assert found["symphony:requests_total", "OK", "grpc"] == found["symphony:requests_total", "NOT_FOUND", "grpc"] == 1
    assert found["symphony:requests_in_flight", "grpc"] == 0
    assert found["symphony:request_seconds_count", "grpc"] == 2


def test_how_long_a_stream_lasted_is_not_counted(doors: DoorMeter) -> None:
    asyncio.run(rpc("/symphony.v1.S/Stream"))

    found = numbers(doors)
    assert found["symphony:requests_total", "OK", "grpc"] == 1
    assert found["symphony:request_seconds_count", "grpc"] == 0


def test_one_that_was_cancelled_says_so(doors: DoorMeter) -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(rpc("/symphony.v1.S/One", asyncio.CancelledError()))

    assert numbers(doors)["symphony:requests_total", "CANCELLED", "grpc"] == 1


def test_log_lines_are_counted_by_level(doors: DoorMeter) -> None:
    handler = CountLines()
    for level in (logging.INFO, logging.INFO, logging.ERROR):
        handler.handle(logging.LogRecord("x", level, __file__, 1, "text", (), None))

    found = numbers(doors)
    assert (found["symphony:log_lines_total", "info"], found["symphony:log_lines_total", "error"]) == (2, 1)


def test_all_that_a_door_counts_is_a_doors_metric_of_the_registry(doors: DoorMeter) -> None:
    doors.refused.add("grpc", "rate")
    doors.ended("http", "418", 0.1)

    for sample in doors.samples():
        assert SAMPLES[sample.name].by == "door" and SAMPLES[sample.name].knows(sample), sample


def test_a_look_asks_the_kernel_and_tells_it_what_is_counted_here(doors: DoorMeter) -> None:
    kernel = Kernel()
    doors.refused.add("grpc", "rate")

    found = asyncio.run(fresh(kernel))

    assert SERVED in found and kernel.reports == [doors.samples()]


@pytest.mark.parametrize("kernel", [Kernel(fails=True), Kernel(hangs=True)], ids=["fails", "hangs"])
def test_without_the_kernel_a_look_shows_what_is_counted_here(doors: DoorMeter, kernel: Kernel, monkeypatch: Any) -> None:
    monkeypatch.setattr(meter, "ANSWER_S", 0.01)

    assert asyncio.run(fresh(kernel)) == doors.samples()


def test_the_kernel_hears_of_changes_only(doors: DoorMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, rounds = Kernel(), 0

    async def tick(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            doors.refused.add("grpc", "rate")
        if rounds == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(meter.asyncio, "sleep", tick)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(report(kernel))

    assert len(kernel.reports) == 2 and kernel.reports[0] != kernel.reports[1] == doors.samples()


def test_figures_have_help_and_type_and_leave_out_what_is_not_known() -> None:
    found = list(Figures(lambda: [SERVED, MetricSample("symphony:of_tomorrow", 1.0)]).collect())

    assert [(f.name, f.type, f.documentation) for f in found] == [
        ("symphony:engine_steps", "counter", METRICS["symphony:engine_steps"].help)
    ]
    assert [(s.name, s.value) for s in found[0].samples] == [("symphony:engine_steps_total", 7.0)]


@pytest.mark.parametrize(
    ("accept", "asked"),
    [
        ("", ""),
        ("text/plain;version=0.0.4", "text/plain;version=0.0.4"),
        ("openmetrics-text;version=1.0.0,text/plain", "openmetrics-text;version=1.0.0;escaping=allow-utf-8,text/plain"),
        ("application/openmetrics-text;version=1.0.0;escaping=dots", "application/openmetrics-text;version=1.0.0;escaping=dots"),
    ],
)  # fmt: skip
def test_who_says_nothing_of_escaping_gets_names_with_their_colons(accept: str, asked: str) -> None:
    assert with_colons(accept) == asked
