"""Traces: what is written is read again, and what is no trace is refused with its line."""

from __future__ import annotations

import io

import pytest

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.simulate import trace
from vllm_symphony.simulate.trace import Gap, Turn
from vllm_symphony.simulate.workload import WORKLOADS, Shape, generate

HEAD = '{"trace": "t"}\n'


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_written_trace_is_read_again(name: str) -> None:
    made = generate(name, Shape(20, 2.0, seed=3, num_principals=2))
    file = io.StringIO()

    trace.write(made, file)
    found = trace.read(file.getvalue().splitlines())

    assert (found.name, found.seed, found.about) == (made.name, 3, made.about)
    assert [(s.name, s.principal, s.prefix, list(s.turns)) for s in found.scripts] == [
        (s.name, s.principal, s.prefix, list(s.turns)) for s in made.scripts
    ]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_gives_one_trace(name: str) -> None:
    assert generate(name, Shape(10, seed=1)) == generate(name, Shape(10, seed=1))
    assert generate(name, Shape(10, seed=1)).scripts != generate(name, Shape(10, seed=2)).scripts


def test_steps_are_calls_branches_and_gaps() -> None:
    line = '{"at": 1, "name": "p", "steps": [[3, 4], ["tool", 0.5], [1, 2, 8]]}'

    (script,) = trace.read([HEAD, line]).scripts

    assert script.steps == (Turn(3, 4), Gap("tool", 0.5), Turn(1, 2, 8))
    assert (script.num_calls, script.num_tokens) == (9, 4 + 16)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"at": 1, "name": "p", "steps": [[3, 0]]}', "from 1 on"),
        ('{"at": -1, "name": "p", "steps": [[3, 1]]}', "seconds from 0 on"),
        ('{"at": 1, "name": "p", "steps": [["tool", 1]]}', "without a call"),
        ('{"at": 1, "name": "p", "steps": [[0, 1]]}', "needs a prompt"),
        ('{"at": 1, "name": "p", "steps": [[3, 1]], "prio": 1}', "unknown fields: prio"),
        ('{"at": 1, "steps": [[3, 1]]}', "KeyError"),
        ("[]", "TypeError"),
        ("{", "JSONDecodeError"),
    ],
)
def test_a_wrong_line_is_named(line: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"line 2 .*{why}"):
        trace.read([HEAD, line])


def test_an_empty_file_is_no_trace() -> None:
    with pytest.raises(InvalidArgument, match="empty"):
        trace.read(["", "\n"])


def test_a_squeezed_trace_has_the_same_programs_sooner() -> None:
    made = generate("agents", Shape(5, 1.0))

    assert [s.at_s for s in made.squeezed(2.0).scripts] == [s.at_s / 2 for s in made.scripts]
