"""One set of programs, three machines: each program asserts what the calls promise (tests/conformance/programs/)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PROGRAMS = sorted((Path(__file__).parent / "programs").glob("*.py"))
HELPERS = {
    "take",
    "length_of",
    "fails",
    "unchanged",
    "use_fd",
    "chat",
    "one",
    "double",
    "stumble",
    "stumble_soon",
    "rest",
    "tidy",
    "one_look",
    "serve_requests",
    "send_numbers",
    "append_to_what_comes",
    "listen",
    "write",
    "look",
    "sleeps",
    "keeps",
    "has_no_children",
    "spins",
    "answers",
    "reads",
    "adds",
    "adds_nothing",
    "writes_and_looks",
}


def cases():
    for path in PROGRAMS:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.AsyncFunctionDef) and node.name not in HELPERS:
                yield pytest.param(path, node.name, id=f"{path.stem}-{node.name}")


@pytest.mark.parametrize(("path", "entry"), list(cases()))
def test_a_program_finds_what_it_was_promised(host, path, entry):
    ended = host.run(path.read_text(), entry)

    assert ended.status.code == 0, str(ended)


def test_what_a_program_shows_reaches_its_viewer(host):
    ended = host.run((Path(__file__).parent / "programs" / "world.py").read_text(), "output_is_kept_in_order")

    assert ended.value == {"done": True}
    assert (ended.stdout, ended.stderr) == ("first\nlast\n", "an error\n")
    assert ended.emitted == [{"n": 1}, [2]]


@pytest.mark.parametrize(
    ("source", "code", "reason", "says"),
    [
        ("def main(:", 2, "program", "invalid syntax"),
        ("x = 1", 2, "program", "main"),
        ("def main(a): ...", 2, "program", "needs a"),
        ("async def main():\n    raise KeyError('mine')", 1, "exception", "line 2, in main"),
        ("def main(): raise SystemExit(9)", 9, "exit", ""),
        ("def main(): return object()", 1, "exception", "not JSON"),
    ],
)
def test_a_program_that_fails_says_how(host, source, code, reason, says):
    ended = host.run(source)

    assert (ended.status.code, ended.status.reason) == (code, reason)
    assert says in ended.stderr
