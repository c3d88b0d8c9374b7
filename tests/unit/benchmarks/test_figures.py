"""From timings to figures and rows, without an engine."""

import asyncio

import pytest

from benchmarks import batching, calls, decode, interference, outside
from benchmarks.plain import Timing
from benchmarks.programs import source
from benchmarks.report import Report
from benchmarks.rig import Meter
from benchmarks.stats import Pairs
from vllm_symphony.lip.program import parse

PARTS = {"host": 0.5, "engine": 0.3, "reactor": 0.1, "other": 0.1}


def timing(num_tokens=100, seconds=1.0, **counters):
    defaults = {"engine_steps": 11.0, "empty_steps": 1.0, "rows": 100.0, "waits": 5.0, "waited_s": 0.01}
    return Timing(num_tokens, seconds, Meter(seconds, dict(PARTS), {**defaults, **counters}), 0.05)


def test_a_meter_is_read_by_differences():
    before, after = Meter(1.0, {"engine": 1.0}, {"steps": 5.0}), Meter(3.0, {"engine": 1.5, "edge": 0.25}, {"steps": 9.0})

    d = after - before

    assert (d.at, d.cpu_s, d.counters) == (2.0, {"engine": 0.5, "edge": 0.25}, {"steps": 4.0})


def test_a_timing_gives_numbers_per_token():
    t = timing(num_tokens=100, seconds=2.0)

    assert (t.rate, t.wall_us) == (50.0, 20_000.0)
    assert t.cpu_us() == pytest.approx(5000)
    assert t.cpu_us("reactor") == pytest.approx(1000)


def test_rates_are_compared_within_their_round():
    report = Report("decode")

    decode.add_rates(
        report, 8, {"plain": [timing(seconds=1.0), timing(seconds=4.0)], "fused": [timing(seconds=1.0), timing(seconds=4.0)]}
    )

    assert report.samples["fused_8"] == report.baseline_samples["fused_8"] == [100.0, 25.0]
    fused = report.rows[1]
    assert (fused["way"], fused["over plain"], fused["rows/step"]) == ("fused", 1.0, 10.0)


def test_the_tax_shows_where_time_goes():
    row = decode.row_of_tax(1, "token", [timing(seconds=0.8)])

    assert row["engine"] == pytest.approx(3000)
    assert row["programs"] == pytest.approx(500)
    assert row["idle"] == pytest.approx(3000)  # 8000 of wall, 5000 of CPU


def test_steps_without_work_are_not_counted():
    row = batching.row(10, "window on", [timing()])

    assert (row["steps/round"], row["rows/step"], row["waits/round"]) == (1.0, 10.0, 0.5)


def test_calls_are_shown_in_ms_with_the_tail():
    report = Report("calls")

    calls.add(report, "program", "fork", [0.001, 0.002, 0.003], [0.002, 0.004, 0.006])

    assert report.rows[0]["idle p50 ms"] == pytest.approx(2.0)
    assert report.rows[0]["loaded max"] == pytest.approx(6.0)
    assert report.baseline_samples["program.fork"] == [0.001, 0.002, 0.003]


def test_interference_says_whether_the_client_did_its_part():
    found = interference.figures(Pairs(a=[9.0, 10.0], b=[10.0, 10.0]), [{"pings_per_s": 480.0}, {"pings_per_s": 500.0}])

    assert found == {"interference_ratio": 0.95, "pings_per_s": 490.0}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("decode", ["prompt", "num_tokens", "how", "gate", "linger_s", "top_k", "warm_up", "late_s"]),
        ("replay", ["steps", "vocab_size", "prefix", "is_timed"]),
        ("context", ["path", "prompt", "num_forwards"]),
        ("calls", ["num_rounds", "prompt", "name"]),
        ("stream", ["prompt", "num_tokens"]),
        ("hello", []),
    ],
)
def test_programs_take_what_the_benchmarks_give(name, options):
    assert [o.name for o in parse(source(name)).options] == options


async def _starts(per_s, seconds):
    count = 0

    async def start():
        nonlocal count
        count += 1

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await outside.pace(per_s, start)
    return count


def test_a_paced_client_keeps_its_rate():
    assert 10 <= asyncio.run(_starts(200, 0.3)) <= 62
