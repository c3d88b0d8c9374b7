"""Pictures of plays: drawn where matplotlib is, refused in words where it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vllm_symphony.errors import NotSupported
from vllm_symphony.simulate.comparison import Rules, compare
from vllm_symphony.simulate.player import Host
from vllm_symphony.simulate.plot import draw
from vllm_symphony.simulate.workload import Shape, generate


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(NotSupported, match=r"vllm-symphony\[plots\]"):
        draw([], tmp_path)


@pytest.mark.keeps("fds")  # matplotlib keeps the fonts that it has read open
def test_both_pictures_show_each_of_the_rules(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = compare([generate("agents", Shape(8, 4.0))], Host(), [Rules("fcfs", "lru"), Rules("vtc", "lru")])

    paths = draw(results, tmp_path / "pictures")

    assert [path.name for path in paths] == ["completion.svg", "machine.svg"]
    assert all(path.read_text().count("<svg") == 1 for path in paths)
