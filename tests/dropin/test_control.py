"""vLLM's control calls with files in play: aborts, pause, sleep, cache resets, new weights."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conformance.host import eventually
from tests.dropin.server import PAGE, TINY, Answer, Served
from tests.dropin.test_tokens import programs, prompt
from vllm_symphony.abi.calls import Extract, FdArgs, Forward, Generate, NoArgs, Open, Read
from vllm_symphony.abi.types import Span, pack_tokens, unpack_tokens
from vllm_symphony.errors import StaleFile

NUM = 20  # tokens of a generate that is met while it runs


@pytest.fixture(autouse=True)
def goes_on(server_b) -> Iterator[None]:
    yield
    server_b.ask("/wake_up", {})
    server_b.ask("/resume", {})
    server_b.probe("settle")


@dataclass
class Generating:
    """A generate over a file: the engine is in the middle of it, and stands still until calls meet it there."""

    served: Served
    expected: list[int]
    answer: Future[list[int]]
    pool: ThreadPoolExecutor
    hold: ExitStack

    def meet(self, *paths: str) -> list[Answer]:
        """Have the engine take these calls, in this order, before its next step; from then on it goes on."""
        answers = []
        for num, path in enumerate(paths, 1):
            answers.append(self.pool.submit(self.served.ask, path, {}))
            eventually(lambda num=num: self.served.probe("calls_that_wait") == num, f"{path} never reached the engine")
        self.hold.close()
        return [answer.result() for answer in answers]

    @property
    def is_over(self) -> bool:
        return self.answer.done()

    def finish(self) -> list[int]:
        return self.answer.result(120)


@contextmanager
def generating(served: Served, seed: int = 1) -> Iterator[Generating]:
    tokens = prompt(seed, 100)
    expected = served.tokens(tokens, NUM)
    with ThreadPoolExecutor() as pool, ExitStack() as hold:
        wait_until_held = hold.enter_context(served.held_amid())
        answer = pool.submit(generate, served, tokens)
        wait_until_held()
        yield Generating(served, expected, answer, pool, hold)


def generate(served: Served, tokens: list[int]) -> list[int]:
    with served.client() as client:
        fd = client.ask("open", Open(tokens=pack_tokens(tokens))).fd
        told = client.ask("generate", Generate(fd, NUM, ignore_eos=True))
        client.ask("close", FdArgs(fd))
    found: list[int] = unpack_tokens(told.tokens)
    return found


def stream(served: Served, **body: Any) -> http.client.HTTPResponse:
    """A streamed completion, of which the first piece has come."""
    where = urlsplit(served.http)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
    wanted = {"model": "tiny", "prompt": prompt(3, 40), "max_tokens": 1500, "ignore_eos": True, "stream": True, **body}
    connection.request("POST", "/v1/completions", json.dumps(wanted), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    answer.readline()
    return answer


def test_a_client_that_leaves_ends_its_request_and_disturbs_no_program(server_b):
    expected = server_b.tokens(prompt(2, 50), 20)
    with programs(server_b, 3):
        answers = [stream(server_b) for _ in range(4)]
        for answer in answers:
            answer.close()

        eventually(lambda: server_b.probe("plain_requests") == 0, "a request outlives its client")
        assert server_b.tokens(prompt(2, 50), 20) == expected
        server_b.probe("check")


@pytest.mark.parametrize("clear", ["true", "false"])
@pytest.mark.parametrize("mode", ["abort", "keep"])
def test_a_pause_holds_calls_of_files_and_they_go_on_where_they_were(server_b, mode, clear):
    with generating(server_b) as running:
        (paused,) = running.meet(f"/pause?mode={mode}&clear_cache={clear}")

        assert paused.status == 200
        steps = server_b.probe("counters")["steps"]
        with server_b.client() as client:  # what needs no step works
            fd = client.ask("open", Open(tokens=pack_tokens([50, 51]))).fd
            assert unpack_tokens(client.ask("read", Read(fd)).tokens) == [50, 51]
            client.ask("close", FdArgs(fd))
        assert server_b.probe("counters")["steps"] == steps and not running.is_over
        assert server_b.ask("/resume", {}).status == 200
        assert running.finish() == running.expected


def test_a_pause_that_waits_ends_when_the_calls_that_run_have_ended(server_b):
    with generating(server_b) as running:
        (paused,) = running.meet("/pause?mode=wait")

        assert paused.status == 200
        assert running.finish() == running.expected
        server_b.ask("/resume", {})


def test_plain_requests_are_aborted_by_a_pause_as_vllm_does(server_b):
    answer = stream(server_b)

    assert server_b.ask("/pause", {}).status == 200

    assert b'"finish_reason":"abort"' in answer.read()
    answer.close()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_asleep_calls_of_files_wait_and_awake_they_go_on(server_b, level):
    with server_b.client() as client:
        fd = client.ask("open", Open(tokens=pack_tokens(prompt(5, 70)))).fd
        client.ask("forward", Forward(fd, top_k=1))
        with generating(server_b) as running:
            (asleep,) = running.meet(f"/sleep?level={level}")

            assert asleep.status == 200
            assert server_b.ask("/is_sleeping").body == {"is_sleeping": True}
            if level:
                assert server_b.probe("counters")["pages_held"] == 0
            call = client.send("generate", Generate(fd, 4, ignore_eos=True))
            assert not running.is_over
            assert server_b.ask("/wake_up", {}).status == 200
            while (answer := client.answer()).id != call or answer.part:
                pass
            assert answer.err is None
            client.ask("close", FdArgs(fd))
            assert running.finish() == running.expected


def test_a_reset_of_the_prefix_cache_takes_the_pages_of_files_and_they_are_computed_again(server_b):
    expected = server_b.tokens(prompt(6, 90), 6)
    with server_b.client() as client:
        fd = client.ask("open", Open(tokens=pack_tokens(prompt(6, 90)))).fd
        client.ask("forward", Forward(fd, top_k=1))

        assert server_b.ask("/reset_prefix_cache", {}).body == {"success": True}

        assert server_b.probe("counters")["pages_held"] == 0
        assert unpack_tokens(client.ask("generate", Generate(fd, 6, ignore_eos=True)).tokens) == expected
        client.ask("close", FdArgs(fd))


def test_a_reset_with_running_calls_is_refused_or_has_them_computed_again(server_b):
    with generating(server_b) as running:
        refused, done = running.meet("/reset_prefix_cache", "/reset_prefix_cache?reset_running_requests=true")

        assert (refused.body, done.body) == ({"success": False}, {"success": True})
        assert running.finish() == running.expected


def test_pages_of_edited_files_go_below_when_the_cache_is_reset(server_b):
    with server_b.client() as client:
        edited = edit(client, 7)
        before = client.ask("forward", Forward(edited, top_k=3)).distributions

        assert server_b.ask("/reset_prefix_cache", {}).body == {"success": True}

        assert server_b.probe("counters")["pages_held"] == 0
        (after,) = client.ask("forward", Forward(edited, top_k=3)).distributions
        assert after.ids == before[0].ids
        client.ask("close", FdArgs(edited))


def edit(client: Any, seed: int) -> int:
    """A file whose keys and values are no function of its tokens."""
    whole = client.ask("open", Open(tokens=pack_tokens(prompt(seed, 5 * PAGE)))).fd
    client.ask("forward", Forward(whole, top_k=1))
    fd: int = client.ask("extract", Extract(whole, (Span(0, 20), Span(3 * PAGE, 5 * PAGE)))).fd
    client.ask("close", FdArgs(whole))
    return fd


def reload(served: Served, path: Path) -> None:
    body = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}
    answer = served.ask("/collective_rpc", body)
    assert answer.status == 200, answer.body


@pytest.fixture
def other_weights(server_b, tmp_path) -> Iterator[Path]:
    """The model with other weights; the server has its own again after the test."""
    from safetensors.torch import load_file, save_file

    path = tmp_path / "other"
    shutil.copytree(TINY, path)
    tensors = load_file(path / "model.safetensors")
    changed = {name: t.flip(0).contiguous() if name.endswith("o_proj.weight") else t for name, t in tensors.items()}
    save_file(changed, path / "model.safetensors", {"format": "pt"})
    yield path
    reload(server_b, TINY)
    server_b.ask("/reset_prefix_cache", {})


def fingerprint(client: Any) -> str:
    found: str = client.ask("model_info", NoArgs()).model.fingerprint
    return found


def test_the_same_weights_again_change_nothing(server_b):
    with server_b.client() as client:
        fd = client.ask("open", Open(tokens=pack_tokens(prompt(8, 100)))).fd
        client.ask("forward", Forward(fd, top_k=1))
        held, name = server_b.probe("counters")["pages_held"], fingerprint(client)

        reload(server_b, TINY)

        assert server_b.probe("counters")["pages_held"] == held and fingerprint(client) == name
        client.ask("close", FdArgs(fd))


def test_with_new_weights_no_page_of_before_is_used_again(server_b, other_weights):
    with server_b.client() as client:
        exact = client.ask("open", Open(tokens=pack_tokens(prompt(8, 100)))).fd
        client.ask("forward", Forward(exact, top_k=1))
        edited = edit(client, 7)
        name, old = fingerprint(client), server_b.tokens(prompt(8, 100), 12)

        reload(server_b, other_weights)

        assert fingerprint(client) != name
        assert server_b.probe("counters")["pages_held"] == 0
        with pytest.raises(StaleFile, match="edited"):
            client.ask("forward", Forward(edited, top_k=1))
        told = unpack_tokens(client.ask("generate", Generate(exact, 12, ignore_eos=True)).tokens)
        server_b.ask("/reset_prefix_cache?reset_running_requests=true", {})
        assert told == server_b.tokens(prompt(8, 100), 12) != old
        for fd in (exact, edited):
            client.ask("close", FdArgs(fd))


def test_a_call_that_runs_while_the_weights_change_is_computed_with_the_new_ones(server_b, other_weights):
    with generating(server_b, seed=4) as running:
        running.meet("/pause?mode=keep")
        reload(server_b, other_weights)
        server_b.ask("/resume", {})

        found = running.finish()
    assert len(found) == NUM and found != running.expected
    server_b.probe("check")
