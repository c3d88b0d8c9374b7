"""The client without asyncio, against a server."""

import asyncio

import pytest

from tests.edge.test_command_line import SPIN
from tests.edge.test_grpc import HELLO
from vllm_symphony import connect_sync, lip
from vllm_symphony.client import Program, ServerUnreachable
from vllm_symphony.errors import NoSuchFile, NoSuchProcess


def connected(server):
    """No fixture: pytest would keep it, and gRPC's sockets with it, until it has looked for what was left behind."""
    return connect_sync(server.run_dir / "symphony.sock")


def test_a_run_is_iterated_and_gives_its_result(server):
    with connected(server) as client:
        run = client.run(HELLO, who="you")
        events = list(run)

        assert [e.kind for e in events] == ["started", "stdout", "exit"]
        assert run.result().value == "you"
        assert run.pid == events[0].pid
        assert "hello you" in str(run) and "hello you" in run._repr_html_()


def test_a_loop_that_breaks_leaves_the_run_to_be_closed(server):
    with connected(server) as client:
        run = client.run(SPIN)
        for event in run:
            if event.kind == "stdout":
                break
        run.close()

        assert client.wait(run.pid, timeout_s=60).exit.reason == "cancelled"


def test_a_client_that_leaves_ends_its_runs(server):
    with connected(server) as client:
        with connected(server) as leaving:
            run = leaving.run(SPIN)
            next(run)

        assert client.wait(run.pid, timeout_s=60).exit.reason == "cancelled"


def test_calls_and_streams_and_errors(server):
    with connected(server) as client:
        pid = client.spawn(Program(SPIN, name="spinner"))
        events = client.attach(pid)
        assert next(events).kind == "started"
        events.close()
        client.kill(pid)

        assert client.wait(pid).exit.code == 130
        assert [e.kind for e in client.logs(pid)][-1] == "exit"
        assert [p.name for p in client.ps(pid)] == ["spinner"]
        assert client.detokenize(client.tokenize("ab")) == "ab"
        with pytest.raises(NoSuchFile):
            client.stat("/nowhere", timeout_s=60)
        with pytest.raises(NoSuchProcess):
            client.wait(999_999)


def test_a_remote_program_runs_from_plain_code(server):
    with connected(server) as client:

        async def main(text):
            async with lip.open(text=text) as file:
                return file.length

        assert client.run_here(main, text="abc") == 3


def test_it_works_where_a_loop_runs_already(server):
    """As in a notebook."""

    async def cell():
        with connected(server) as client:
            return client.run(HELLO, who="you").result().value

    assert asyncio.run(cell()) == "you"


def test_without_a_server_it_is_the_same_error(tmp_path):
    with connect_sync(tmp_path / "none.sock") as client, pytest.raises(ServerUnreachable):
        client.ping()
