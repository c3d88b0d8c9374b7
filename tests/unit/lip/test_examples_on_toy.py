"""Each example on the toy machine: it runs, and shows what it claims."""

import asyncio
import runpy
from pathlib import Path

import pytest

from tests.unit.lip.toy import END, ToyTransport, draw, row_after, run
from vllm_symphony.abi.types import Sampler
from vllm_symphony.lip.program import parse

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = sorted(p.stem for p in EXAMPLES.glob("*.py"))


def play(name, **args):
    names = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    toy = ToyTransport(program=names)
    return asyncio.run(run(toy, names["main"], args)), toy


def greedy(text, num_tokens):
    tokens = list(text.encode())
    start = len(tokens)
    while len(tokens) < start + num_tokens and tokens[-1] != END:
        tokens.append(draw(row_after(tuple(tokens)), Sampler(), 0, 0))
    return tokens[start:]


@pytest.mark.parametrize("name", NAMES)
def test_every_example_runs_with_its_defaults_and_leaves_no_file(name):
    needed = {"question": "Who?"} if name == "best_of_n" else {}

    result, toy = play(name, **needed)

    assert result
    assert not toy.left_open
    assert not toy.machine.names


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_what_it_shows_and_documents_its_options(name):
    source = (EXAMPLES / f"{name}.py").read_text()

    program = parse(source)

    assert len(source.splitlines()) < 60
    assert source.startswith('"""')
    assert program.summary
    assert all(option.help for option in program.options)


def test_ngram_speculation_gives_exactly_greedys_tokens_with_fewer_forwards():
    question = "abcabcabc tick tock"

    result, _ = play("ngram_speculation", question=question, max_tokens=120)

    assert result["tokens"] == greedy(f"user: {question}\nassistant: ", 120)
    assert result["forwards"] < len(result["tokens"])


def test_a_beam_is_at_least_as_likely_as_greedy():
    wide, _ = play("beam_search", width=5, max_tokens=12)
    narrow, _ = play("beam_search", width=1, max_tokens=12)

    assert wide["logprob"] >= narrow["logprob"]


def test_entropy_branch_pays_per_event_not_per_token():
    result, toy = play("entropy_branch", entropy=2.5, max_tokens=60, max_branches=3)

    assert 0 < result["branches"] <= 3
    assert toy.ops().count("forward") == 0


def test_best_of_n_computes_its_prompt_once():
    _, toy = play("best_of_n", question="Who?", n=3)

    assert toy.ops().count("forward") == 1
    assert toy.ops().count("fork") == toy.ops().count("generate") == 3


def test_shared_prefix_readers_open_what_one_process_computed():
    result, toy = play("shared_prefix", questions=["a?", "b?", "c?"])

    assert set(result) == {"a?", "b?", "c?"}
    assert toy.ops().count("spawn") == 3
