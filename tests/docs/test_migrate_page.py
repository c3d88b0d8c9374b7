"""docs/migrate.md: what it calls refused the doctor finds, its launch lines are vLLM's but for what it says, its code runs."""

import ast
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_symphony.cli import serve
from vllm_symphony.cli.checks import installed, launch
from vllm_symphony.cli.checks.finding import Scene
from vllm_symphony.cli.checks.launch_line import LaunchLine, read_line
from vllm_symphony.cli.checks.site import Site

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrate.md").read_text()
SHELL = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
LINES = [line.partition(" #")[0].strip() for block in SHELL for line in block.splitlines()]
REFUSED = re.findall(r"^\| `(--[^`]+)` \|", PAGE, re.MULTILINE)


def found(line: LaunchLine) -> list[str]:
    return [f.state for f in launch.flags(Scene({}, Site([]), line)) if f.state != "ok"]


def lines(word: str) -> list[LaunchLine]:
    return [line for line in (read_line(text.split()) for text in LINES if word in text) if line.command]


@pytest.mark.parametrize("flag", REFUSED)
def test_what_is_refused_the_doctor_finds(flag):
    assert found(read_line(f"vllm serve m {flag}".split())) == ["broken"]


def test_the_kernel_refuses_what_the_page_says():
    """Those that vLLM's finished configuration tells; each is named by its flag."""
    source = (ROOT / "vllm_symphony" / "engine" / "compat.py").read_text()

    assert len(REFUSED) == 5
    for name in ("--data-parallel-size", "runner_type", "--scheduler-cls", "--worker-cls", "--api-server-count"):
        assert name in source


def test_the_launch_line_after_is_the_one_before_and_a_variable():
    before, after = lines("vllm serve Qwen/Qwen3-0.6B --max-model-len 8192 --port 8000")

    assert dict(after.env) == {"VLLM_PLUGINS": "symphony"}
    assert (after.command, after.model, after.flags) == (before.command, before.model, before.flags)
    assert found(after) == []


def test_the_line_by_symphony_takes_the_same_flags_and_its_own():
    import argparse

    (words,) = [text.split()[2:] for text in LINES if text.startswith("symphony serve --http")]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    serve.arguments(parser)

    args = serve.parse(parser, words)

    assert str(args.http).endswith(":8000")
    assert args.model_args == ("Qwen/Qwen3-0.6B", "--max-model-len", "8192")


def test_the_settings_in_the_variable_are_words_of_serve():
    import argparse

    given = re.findall(r'SYMPHONY_SERVE_FLAGS=(?:")?(--[^"\n]+)"', PAGE)
    assert len(given) == 2
    for words in given:
        parser = argparse.ArgumentParser(allow_abbrev=False)
        serve.arguments(parser)
        assert serve.parse(parser, words.split()).model_args == ()


def test_the_unit_reads():
    (text,) = re.findall(r"^```ini\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)

    assert unit["Service"]["Delegate"] == "yes"


def test_the_image_is_of_the_version_that_we_need():
    assert set(re.findall(r"vllm-openai:v([\d.]+)", PAGE)) == {installed.VLLM_VERSION}


def test_what_is_installed_beside_vllm_is_what_a_server_needs():
    named = {word for line in re.findall(r"pip install (?:--no-cache-dir )?([^#\n]+)", PAGE) for word in line.split()}

    assert {"vllm-symphony", "grpcio-health-checking", "grpcio-reflection"} <= named


def test_the_line_for_the_doctor_is_looked_at():
    (text,) = [line for line in LINES if line.startswith("symphony doctor -- ")]
    done = subprocess.run(
        [sys.executable, "-m", "vllm_symphony.cli.main", *text.split()[1:]],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode in (0, 1) and " launch " in done.stdout, done.stderr


def test_the_python_of_the_page_runs_against_a_server(sim_server):
    own, openai = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    ast.parse(openai)  # runs in tests/dropin/test_migrate.py

    done = sim_server.python(own)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
