"""Installed and not named in VLLM_PLUGINS, we are not there: vLLM gives the same bits from the same parts.

vLLM runs twice, each time with a folder of links to its own packages as all that it can import; in one of them is our package too,
with its entry points, as pip would install it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIGHT = {"vllm_symphony", "vllm_symphony.engine", "vllm_symphony.engine.plugin"}  # what looks at VLLM_PLUGINS

pytestmark = pytest.mark.engine


def site(folder: Path, *, ours: bool) -> Path:
    """Links to all that is installed here but us."""
    folder.mkdir()
    for each in Path(sysconfig.get_path("purelib")).iterdir():
        if "vllm_symphony" not in each.name and each.suffix != ".pth":
            (folder / each.name).symlink_to(each)
    if ours:
        (folder / "vllm_symphony").symlink_to(ROOT / "vllm_symphony")
        info = folder / "vllm_symphony-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-symphony\nVersion: 0.1.0\n")
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
        (info / "entry_points.txt").write_text(
            "\n".join(f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in g.items()) for group, g in groups.items())
        )
    return folder


def plain_vllm(folder: Path) -> dict[str, Any]:
    dropped = {"VLLM_PLUGINS", "VLLM_USE_V2_MODEL_RUNNER"}
    env = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("SYMPHONY_")}
    env |= {"PYTHONPATH": str(folder), "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCH_COMPILE_DISABLE": "1"}
    words = [sys.executable, "-S", "-P", str(HERE / "plain_vllm.py"), str(ROOT / "tests" / "models" / "tiny")]
    done = subprocess.run(words, env=env, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


@pytest.fixture(scope="module")
def without(tmp_path_factory) -> dict[str, Any]:
    return plain_vllm(site(tmp_path_factory.mktemp("without") / "site", ours=False))


@pytest.fixture(scope="module")
def beside(tmp_path_factory) -> dict[str, Any]:
    """With us installed."""
    return plain_vllm(site(tmp_path_factory.mktemp("beside") / "site", ours=True))


def test_tokens_and_log_probabilities_are_the_same_to_the_bit(without, beside):
    assert beside["outputs"] == without["outputs"]
    assert all(len(o["tokens"]) == len(o["logprobs"]) == 24 for o in without["outputs"])
    assert any(o["prompt"] for o in without["outputs"])


def test_the_engine_is_made_of_vllms_own_classes(without, beside):
    assert beside["made_of"] == without["made_of"]
    assert all(name.startswith("vllm.") for name in beside["made_of"].values())


def test_no_class_of_vllm_has_a_member_more_or_another_one(without, beside):
    assert beside["members"] == without["members"]


def test_nothing_of_ours_is_loaded_but_what_reads_the_variable(without, beside):
    assert without["modules"] == []
    assert set(beside["modules"]) == LIGHT
    assert beside["all_modules"] == without["all_modules"], "we made vLLM load more of itself"
