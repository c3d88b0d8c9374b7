"""Plain requests give the same tokens whatever programs and files are beside them, and files' calls give plain vLLM's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.counts import FULL, count, random_for
from tests.dropin.server import MAX_LENGTH, NUM_PAGES, PAGE, Served
from vllm_symphony.abi.calls import FdArgs, Forward, Generate, Kill, Open, Spawn, Wait
from vllm_symphony.abi.types import pack_tokens, unpack_floats, unpack_tokens

CLOSE = 1e-4
SIZES = [1, PAGE - 1, PAGE, PAGE + 1, MAX_LENGTH - 2, 5 * PAGE + 3]  # of files
SCHEMA = {"type": "object", "properties": {"job": {"enum": ["baker", "pilot"]}, "age": {"type": "integer"}}, "required": ["job"]}
BUSY = """
from vllm_symphony import lip

async def main(seed: int):
    while True:
        async with lip.open(tokens=[40 + (seed * 7 + i) % 60 for i in range(90)]) as f, f.fork() as fork:
            await f.generate(20, temperature=1.0, seed=seed, ignore_eos=True)
            for token in range(50, 60):
                await fork.forward([token], top_k=3)
"""


def prompt(seed: int, length: int) -> list[int]:
    return [40 + (seed * 13 + i * (1 + seed % 5)) % 60 for i in range(length)]


PLAIN: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": prompt(1, 45), "max_tokens": 24},
    "long": {"prompt": prompt(2, 700), "max_tokens": 8},
    "seeded": {"prompt": prompt(3, 33), "max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": 7},
    "several": {"prompt": prompt(4, 20), "max_tokens": 12, "n": 3, "temperature": 1.0, "seed": 11},
    "logprobs": {"prompt": prompt(5, 64), "max_tokens": 12, "logprobs": 4},
    "penalties": {"prompt": prompt(6, 31), "max_tokens": 16, "presence_penalty": 0.5, "repetition_penalty": 1.2},
    "stop": {"prompt": "the boat", "max_tokens": 60, "stop": ["e"], "ignore_eos": False},
    "structured": {"prompt": "{", "max_tokens": 60, "ignore_eos": False, "structured_outputs": {"json": SCHEMA}},
}


def ask(served: Served, body: dict[str, Any]) -> Any:
    """What a request gave: ids, text, why it ended, log-probabilities."""
    choices = served.complete(**body)["choices"]
    return [(c["token_ids"], c["text"], c["finish_reason"], (c["logprobs"] or {}).get("token_logprobs")) for c in choices]


def assert_same(found: Any, expected: Any) -> None:
    for (ids, text, why, some), (true_ids, true_text, true_why, others) in zip(found, expected, strict=True):
        assert (ids, text, why) == (true_ids, true_text, true_why)
        assert (some is None) == (others is None)
        if some is not None:
            assert some == pytest.approx(others, abs=CLOSE)


@pytest.fixture(scope="module")
def alone(server_b) -> dict[str, Any]:
    """What each request gives when nothing else is there; twice, with and without what the prefix cache has by then."""
    first = {name: ask(server_b, body) for name, body in PLAIN.items()}
    for name, body in PLAIN.items():
        assert_same(ask(server_b, body), first[name])
    return first


@pytest.fixture(autouse=True)
def nothing_left(server_b) -> Iterator[None]:
    yield
    server_b.probe("settle")


def ask_all(served: Served, num_times: int = 1) -> list[tuple[str, Any]]:
    """All requests at once."""
    names = list(PLAIN) * num_times
    with ThreadPoolExecutor(len(names)) as pool:
        return list(zip(names, pool.map(lambda name: ask(served, PLAIN[name]), names), strict=True))


@contextmanager
def programs(served: Served, num: int) -> Iterator[None]:
    """That many compute meanwhile, without end."""
    with served.client() as client:
        pids = [client.ask("spawn", Spawn(BUSY, "main", f'{{"seed": {i}}}', "busy.py")).pid for i in range(num)]
        try:
            yield
        finally:
            for pid in pids:
                client.ask("kill", Kill(pid, "KILL"))
            codes = [client.ask("wait", Wait(pid)).exit.code for pid in pids]
        assert codes == [137] * num


@contextmanager
def files(served: Served, lengths: list[int]) -> Iterator[list[tuple[Any, int]]]:
    """Open files of these lengths, computed."""
    with served.client() as client:
        made = []
        for seed, length in enumerate(lengths):
            fd = client.ask("open", Open(tokens=pack_tokens(prompt(seed, length)))).fd
            client.ask("forward", Forward(fd, top_k=1))
            made.append((client, fd))
        yield made
        for _, fd in made:
            client.ask("close", FdArgs(fd))


@pytest.mark.parametrize("num_programs", [1, 6] if FULL else [6])
def test_plain_requests_are_the_same_beside_programs(server_b, alone, num_programs):
    with programs(server_b, num_programs):
        for _ in range(count(1, 10)):
            for name, found in ask_all(server_b):
                assert_same(found, alone[name])


@pytest.mark.parametrize("length", SIZES if FULL else SIZES[::2])
def test_plain_requests_are_the_same_with_a_file_of_any_size_in_the_cache(server_b, alone, length):
    with files(server_b, [length]):
        for name, found in ask_all(server_b):
            assert_same(found, alone[name])


def full_cache() -> list[int]:
    """Lengths of files that fill the cache but for a page or two."""
    longest = MAX_LENGTH - PAGE
    num, rest = divmod((NUM_PAGES - 2) * PAGE, longest)
    return [longest] * num + [rest - PAGE]


def test_plain_requests_run_and_are_the_same_when_files_fill_the_cache(server_b, alone):
    with files(server_b, full_cache()) as made:
        held = server_b.probe("counters")["pages_held"]
        assert held >= NUM_PAGES - 6

        for name, found in ask_all(server_b, count(1, 4)):
            assert_same(found, alone[name])

        for seed, (client, fd) in enumerate(made):  # what was given up is computed again
            told = client.ask("generate", Generate(fd, 4, ignore_eos=True))
            assert unpack_tokens(told.tokens) == server_b.tokens(prompt(seed, full_cache()[seed]), 4)


def test_plain_requests_programs_and_full_files_at_once(server_b, alone):
    with programs(server_b, 4), files(server_b, full_cache()):
        for name, found in ask_all(server_b, count(2, 6)):
            assert_same(found, alone[name])
        server_b.probe("check")


def assert_files_are_plain(served: Served, length: int) -> None:
    """The reference rule: token by token, and in one call, as the plain request computes it."""
    choice = served.complete(prompt(9, length), 12, logprobs=3)["choices"][0]
    with served.client() as client:
        fd = client.ask("open", Open(tokens=pack_tokens([]))).fd
        tokens, found, new = [], [], prompt(9, length)
        for _ in range(12):
            (d,) = client.ask("forward", Forward(fd, pack_tokens(new), top_k=3)).distributions
            new = unpack_tokens(d.ids)[:1]
            tokens += new
            found.append(unpack_floats(d.logprobs)[0])
        fused = client.ask("open", Open(tokens=pack_tokens(prompt(9, length)))).fd
        told = client.ask("generate", Generate(fused, 12, ignore_eos=True))
        for open_fd in (fd, fused):
            client.ask("close", FdArgs(open_fd))

    assert tokens == unpack_tokens(told.tokens) == choice["token_ids"]
    assert found == pytest.approx(choice["logprobs"]["token_logprobs"], abs=CLOSE)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 200] if FULL else [33])
def test_forwards_of_files_are_plain_vllms(server_b, length):
    assert_files_are_plain(server_b, length)


def test_a_younger_file_gets_room_when_the_older_is_stale_though_nothing_arrives(server_b):
    """vLLM's loop sleeps until something arrives: our alarm wakes it."""
    with server_b.client() as client:
        longest = MAX_LENGTH - PAGE
        older = [client.ask("open", Open(tokens=pack_tokens(prompt(i, longest)))).fd for i in range(NUM_PAGES * PAGE // longest)]
        younger = client.ask("open", Open(tokens=pack_tokens(prompt(9, longest)))).fd
        for fd in older:
            client.ask("forward", Forward(fd, top_k=1))

        assert len(client.ask("forward", Forward(younger, top_k=1)).distributions) == 1

        for fd in (*older, younger):
            client.ask("close", FdArgs(fd))


def test_random_requests_and_file_calls_at_once_are_each_what_they_are_alone(server_b):
    """Prompts of any length, some with a beginning in common with a file."""
    rng = random_for("dropin mixture")
    cases = [(rng.randrange(9), rng.randrange(1, 400), rng.randrange(1, 24)) for _ in range(count(8, 60))]
    expected = [server_b.tokens(prompt(seed, length), num) for seed, length, num in cases]

    def by_file(case: tuple[int, int, int]) -> list[int]:
        seed, length, num = case
        with server_b.client() as client:
            fd = client.ask("open", Open(tokens=pack_tokens(prompt(seed, length)))).fd
            told = client.ask("generate", Generate(fd, num, ignore_eos=True))
            client.ask("close", FdArgs(fd))
        found: list[int] = unpack_tokens(told.tokens)
        return found

    def plain(case: tuple[int, int, int]) -> list[int]:
        return server_b.tokens(prompt(case[0], case[1]), case[2])

    with ThreadPoolExecutor(16) as pool:
        both = [pool.submit(way, case) for case in cases for way in (by_file, plain)]
        found = [f.result() for f in both]
    assert found == [tokens for tokens in expected for _ in range(2)]
