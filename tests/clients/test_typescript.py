"""The TypeScript client, built by npm alone, with its own tests against a server on the simulator."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vllm_symphony.abi.table import CALLS

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "examples" / "clients" / "typescript"
LOCK, INSTALLED = CLIENT / "package-lock.json", CLIENT / "node_modules" / ".package-lock.json"
NPM, NODE = shutil.which("npm"), shutil.which("node")

pytestmark = [
    pytest.mark.skipif(
        NPM is None or NODE is None, reason="the TypeScript client is built by npm and run by node, one is missing here"
    ),
    pytest.mark.xdist_group("typescript"),  # one worker builds it
    pytest.mark.timeout(300),
]


def done(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=CLIENT, env={**os.environ, **env}, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="session")
def built() -> Path:
    """The client, built."""
    is_fresh = INSTALLED.exists() and INSTALLED.stat().st_mtime >= LOCK.stat().st_mtime
    for words in [("run", "build")] if is_fresh else [("ci",), ("run", "build")]:
        made = done(NPM, *words)
        assert made.returncode == 0, made.stdout + made.stderr
    return CLIENT / "dist"


@pytest.fixture(scope="session")
def sim_socket(sim_server) -> Path:
    """Where `symphony serve --device sim` listens."""
    return sim_server.run_dir / "symphony.sock"


@pytest.mark.parametrize("name", sorted(p.name.removesuffix(".test.ts") for p in (CLIENT / "tests").glob("*.test.ts")))
def test_its_own_tests_pass(built, sim_socket, name):
    ran = done(NODE, "--test", "--test-timeout=60000", built / "tests" / f"{name}.test.js", SYMPHONY_SOCKET=str(sim_socket))

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "# fail 0" in ran.stdout
    assert "# pass 0" not in ran.stdout


def test_its_example_answers(built, sim_socket):
    ran = done(NODE, built / "examples" / "loop.js", f"unix:{sim_socket}", "hello")

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


def test_its_measuring_program_gives_raw_samples(built, sim_socket):
    ran = done(NODE, built / "bench.js", "--socket", sim_socket, "--calls", "5", "--json")

    assert ran.returncode == 0, ran.stderr
    samples = json.loads(ran.stdout)
    assert {name: len(values) for name, values in samples.items()} == {"getpid": 5, "forward": 5}
    assert all(ms > 0 for values in samples.values() for ms in values)


def test_the_lock_names_no_registry():
    """An installation takes packages from wherever the user's npm does."""
    packages = json.loads(LOCK.read_text())["packages"]

    assert not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for name, package in packages.items() if name)


def test_it_repeats_by_itself_only_what_the_call_table_calls_a_read():
    calls = re.findall(r"^  (\w+): {.*?(reads: true)? }", (CLIENT / "src" / "calls.ts").read_text(), re.MULTILINE)

    reads = {re.sub("[A-Z]", lambda c: f"_{c[0].lower()}", name): bool(is_read) for name, is_read in calls}

    assert len(reads) > 30
    assert reads == {name: not CALLS[name].mutates for name in reads}
