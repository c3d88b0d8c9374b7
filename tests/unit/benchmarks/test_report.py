"""The report's two forms, and the list of benchmarks."""

import json
import sys
from types import ModuleType

import pytest

from benchmarks import registry
from benchmarks.__main__ import main
from benchmarks.apart import Failed
from benchmarks.registry import Benchmark, Bound, Options
from benchmarks.report import Report, table


@pytest.fixture
def fake(monkeypatch):
    """A benchmark `fake` whose figure is whatever the test puts there."""
    module = ModuleType("benchmarks.fake")
    module.__spec__ = registry.importlib.util.spec_from_loader("benchmarks.fake", None)
    figures = {"ratio_min": 0.5}
    module.run = lambda options: Report(
        "fake", dict(figures), rows=[{"what": "a", "ms": 1.5}], samples={"a": [1.0]}, settings={"quick": options.quick}
    )
    monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
    benchmark = Benchmark("fake", "nothing", {"ratio_min": Bound(at_least=0.9)})
    monkeypatch.setitem(registry.BY_NAME, "fake", benchmark)
    return figures


def test_numbers_stand_right_and_texts_left():
    assert table([{"name": "a", "n": 1200}, {"name": "long", "n": 7}]).splitlines() == [
        "name      n",
        "----  -----",
        "a     1,200",
        "long      7",
    ]


def test_the_json_line_carries_what_was_promised():
    report = Report("x", {"r": 1.0}, samples={"a": [1.0, 2.0]}, baseline_samples={"a": [1.0]}, settings={"model": "tiny"})

    line = report.as_json()

    assert "\n" not in line
    content = json.loads(line)
    assert {"name", "figures", "samples", "baseline_samples", "spread", "settings", "machine", "version"} == set(content)
    assert content["spread"] == {"a": pytest.approx(1 / 3)}
    assert content["machine"]["cores"] >= 1
    assert "python" in content["version"]


def test_a_figure_that_is_no_number_is_not_hidden():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Report("x", {"r": float("nan")}).as_json()
    assert not Bound(at_most=1.0).holds(float("nan"))


def test_a_run_prints_table_verdict_and_json(fake, capsys):
    assert main(["fake", "--quick", "--json"]) == 0

    *text, line = capsys.readouterr().out.splitlines()
    assert any("ratio_min" in t and ">= 0.9" in t and "MISSED" in t for t in text)
    assert json.loads(line)["settings"] == {"quick": True}


def test_strict_fails_when_a_bound_is_missed(fake):
    assert main(["fake", "--strict"]) == 1

    fake["ratio_min"] = 0.95
    assert main(["fake", "--strict"]) == 0


def test_strict_fails_when_a_figure_is_missing(fake):
    fake.clear()

    assert main(["fake", "--strict"]) == 1


def test_without_a_name_all_are_listed(capsys):
    assert main([]) == 0

    out = capsys.readouterr().out
    assert all(b.name in out and b.shows in out for b in registry.ALL)


def test_options_default_to_a_full_run():
    assert Options() == Options(quick=False, model=None)


def test_parts_of_other_engines_are_added():
    report, other = Report("x", {"a": 1.0}, rows=[{"n": 1}]), Report("x", {"b": 2.0}, rows=[{"n": 2}], tables={"more": [{"k": 3}]})

    report.take(other)

    assert report.figures == {"a": 1.0, "b": 2.0}
    text = report.as_text({})
    assert text.splitlines()[:4] == ["n", "-", "1", "2"]
    assert "more\nk" in text


def test_what_failed_is_told_and_exits_1(fake, monkeypatch, capsys):
    def fails(options):
        raise Failed("the stock engine died")

    monkeypatch.setattr(sys.modules["benchmarks.fake"], "run", fails)

    assert main(["fake"]) == 1
    assert "fake: the stock engine died" in capsys.readouterr().err
