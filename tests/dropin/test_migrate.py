"""docs/migrate.md on a real server: its OpenAI client runs a program as a model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dropin.server import Served

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrate.md").read_text()
pytestmark = [pytest.mark.xdist_group("engine_b"), pytest.mark.timeout(400)]


def test_the_clients_of_the_page_run(server_b: Served, tmp_path: Path) -> None:
    """The block of the shell, then the one of Python that uses what it made."""
    section = PAGE.split("\n## Clients\n")[1]
    shell = re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[0]
    client = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[0]
    symphony = tmp_path / "bin" / "symphony"
    symphony.parent.mkdir()
    symphony.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m vllm_symphony.cli.main "$@"\n')
    symphony.chmod(0o755)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SYMPHONY_")}
    env = {**inherited, "PATH": f"{symphony.parent}:{os.environ['PATH']}", "SYMPHONY_RUN_DIR": str(server_b.run_dir),
           "SYMPHONY_STATE_DIR": str(server_b.state_dir)}  # fmt: skip

    made = subprocess.run(["bash", "-ec", shell], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    owner = made.stdout.strip().removesuffix("/best@1.0")
    code = client.replace("http://localhost:8000", server_b.http).replace("OWNER", owner)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
