"""The fixture under a pytest of its own: what a passing, a failing and a leaking test look like."""

import os
import subprocess
import sys

import pytest

TESTS = """
from vllm_symphony import lip
from vllm_symphony.testing.fixture import machine

async def rest(seconds: float = 60.0) -> None:
    await lip.sleep(seconds)

def test_passes(machine):
    machine.start(rest)
    machine.run()

def test_fails(machine):
    machine.start(rest)
    machine.advance(1)
    assert machine.now_s == 2

def test_leaks(machine):
    machine.start(rest)
    machine.advance(1)

def test_asks_for_what_is_not_scripted(machine):
    async def main() -> None:
        async with lip.open(text="Why?") as file:
            await file.generate(9)

    machine.script({"Who?": "Me."})
    machine.start(main)
    machine.run()
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """How that session went: outcome lines by test, and all that it said."""
    path = tmp_path_factory.mktemp("session")
    (path / "test_machine.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--color=no", str(path)]
    environment = os.environ | {"SYMPHONY_SEED": "11", "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path, check=False).stdout


def section(said: str, test: str, title: str) -> str:
    """The part of the report that begins with the title's line, up to the next one."""
    return said.split(f"{title} {test} _", 1)[1].split("\n____", 1)[0]


def test_only_what_failed_fails(session):
    assert "PASSED test_machine.py::test_passes" in session
    assert session.splitlines()[-1].startswith("2 failed, 2 passed, 1 error")


def test_a_failed_test_shows_seed_programs_and_calls(session):
    report = section(session, "test_fails", "_")

    assert "SYMPHONY_SEED=11 repeats it" in report
    assert "rest waits in sleep" in report and "spawn entry=rest" in report


def test_a_leak_is_an_error_of_the_test_that_leaked(session):
    assert "rest) waits in sleep" in section(session, "ERROR at teardown of test_leaks", "_")


def test_an_unscripted_question_is_named(session):
    assert "nothing is scripted after 'Why?' (4 tokens); scripted is what follows: 'Who?'" in session


def test_the_plugin_loads_nothing_of_the_machine():
    code = "import sys, vllm_symphony.testing.fixture; print(*sys.modules)"

    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())

    assert not loaded & {"numpy", "msgspec", "vllm_symphony.kernel", "vllm_symphony.testing.machine"}
