"""Tokens against a real server: their life, their rights, and open streams that end with them."""

import asyncio
import queue
import signal
import socket
import time
from pathlib import Path

import grpc
import pytest

from tests.edge.test_command_line import HELLO, SPIN, eventually
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.client import connect
from vllm_symphony.edge.credentials import OWN
from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import AccessDenied, NotOwner, SymphonyError, Unauthenticated
from vllm_symphony.proto.message import call_message
from vllm_symphony.proto.status import from_trailer
from vllm_symphony.proto.v1 import process_pb2, process_pb2_grpc, session_pb2, session_pb2_grpc, system_pb2, system_pb2_grpc


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


LOOPBACK = ("--listen", "127.0.0.1:0", *(("--listen", "[::1]:0") if _has_ipv6() else ()))
CUT_S = 30.0  # twice a second on an idle machine; the calls would last for ten minutes


@pytest.fixture(scope="module")
def server(fresh_server):
    return fresh_server(*LOOPBACK)


@pytest.fixture(scope="module")
def unconfined(fresh_server):
    return fresh_server("--listen", "127.0.0.1:0", "--unconfined")


@pytest.fixture(autouse=True)
def settings(monkeypatch, server):
    for name in ("SYMPHONY_TOKEN", "SYMPHONY_TOKEN_FILE", "SYMPHONY_SERVER", "SYMPHONY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYMPHONY_RUN_DIR", str(server.run_dir))


def addresses(server) -> list[str]:
    """TCP addresses, as the server's own token file tells."""
    lines = (server.run_dir / "token").read_text().splitlines()[1:]
    return [line for line in lines if not line.startswith("unix:")]


def tokens(server) -> TokenFile:
    return TokenFile(server.run_dir / "state")


def add(server, name: str, principal: str = "alice", **kwargs: object) -> str:
    token, text = make(name, principal, now_s=time.time(), **kwargs)
    tokens(server).add(token)
    return text


def talk(target: str | Path, work, token: str | None = None):
    """Run `work(client)` against the target."""

    async def main():
        async with connect(target, token=token) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(main(), 60))


async def ping(client) -> None:
    await client.ping()


async def until_sent(client) -> None:
    """Until the server has what tasks of this loop began to send: a ping goes behind it, on the same connection."""
    for _ in range(3):
        await asyncio.sleep(0)
        await client.ping()


def error_of(address: str, *metadata: tuple[str, str], options: tuple = ()) -> SymphonyError | None:
    """What a Ping with these headers ends with."""
    with grpc.insecure_channel(address, options=options) as channel, pytest.raises(grpc.RpcError) as refused:
        system_pb2_grpc.SystemServiceStub(channel).Ping(system_pb2.PingRequest(), metadata=metadata)
    return from_trailer(refused.value.trailing_metadata())


def test_a_token_works_on_every_door(server):
    token = add(server, "every-door")

    for target in (*addresses(server), server.run_dir / "symphony.sock"):
        talk(target, ping, token)


def test_loopback_without_a_token_is_refused_with_what_to_do(server):
    error = error_of(addresses(server)[0])

    assert isinstance(error, Unauthenticated)
    assert "authorization: Bearer sym_..." in error.message


@pytest.mark.parametrize("form", [
    "token: {}", "x-api-key: {}", "authorization: {}", "authorization: Basic {}", "authorization: Bearer {}x",
    "x-forwarded: Bearer {}",
])  # fmt: skip
def test_a_token_in_a_wrong_place_is_refused_and_not_repeated(server, form):
    token = add(server, f"wrong-{abs(hash(form))}")
    key, _, value = form.format(token).partition(": ")

    for address in (addresses(server)[0], f"unix:{server.run_dir / 'symphony.sock'}"):
        error = error_of(address, (key, value))
        assert isinstance(error, Unauthenticated)
        assert token[4:16] not in error.message and token[17:] not in error.message


def test_a_token_as_the_authority_opens_nothing(server):
    token = add(server, "authority")

    error = error_of(addresses(server)[0], options=(("grpc.default_authority", f"{token}@localhost"),))

    assert isinstance(error, Unauthenticated) and token[17:] not in error.message


def test_a_truncated_token_is_refused(server):
    token = add(server, "truncated")

    for text in (token[:-1], token[:40], token[:17]):
        with pytest.raises(Unauthenticated, match="malformed or truncated"):
            talk(addresses(server)[0], ping, text)


def test_a_revoked_token_is_refused_at_the_next_call_and_stays_so(server):
    token = add(server, "revoked")

    async def work(client):
        await client.ping()
        assert server.run("token", "revoke", "revoked").returncode == 0
        with pytest.raises(Unauthenticated, match="unknown or revoked"):
            await client.ping()

    talk(addresses(server)[0], work, token)
    add(server, "revoked")  # its name, another token
    with pytest.raises(Unauthenticated, match="unknown or revoked"):
        talk(addresses(server)[0], ping, token)


def test_an_expired_token_is_refused_by_its_name(server):
    token = add(server, "expired", expires_s=time.time() - 1)

    with pytest.raises(Unauthenticated, match="the token expired has expired"):
        talk(addresses(server)[0], ping, token)


def test_a_token_of_another_server_is_unknown(server, unconfined):
    with pytest.raises(Unauthenticated, match="unknown"):
        talk(addresses(server)[0], ping, add(unconfined, "elsewhere"))


@pytest.mark.parametrize(
    ("how", "why"), [("revoke", "was revoked"), ("expire", "has expired"), ("damage", "cannot be checked any more")]
)
def test_open_calls_of_a_token_end_within_about_a_second_of_its_end(unconfined, how, why):
    token = add(unconfined, f"open-{how}", scopes=("run",), expires_s=time.time() + 3 if how == "expire" else None)
    target = addresses(unconfined)[0]

    async def work(client):
        run = client.run(SPIN)
        events = aiter(run)
        while (await anext(events)).kind != "stdout":
            pass
        waiting = asyncio.create_task(client.wait(run.pid))
        await until_sent(client)
        good = (unconfined.run_dir / "state" / "tokens.json").read_text()
        if how == "revoke":
            tokens(unconfined).revoke(f"open-{how}")
        elif how == "damage":
            (unconfined.run_dir / "state" / "tokens.json").write_text("{")
        began = time.monotonic()
        try:
            for call in (waiting, anext(events)):
                with pytest.raises(Unauthenticated, match=f"the token open-{how} {why}.*: the call ends"):
                    await call
        finally:
            (unconfined.run_dir / "state" / "tokens.json").write_text(good) if how == "damage" else None
        return run.pid, time.monotonic() - began

    pid, took_s = talk(target, work, token)

    assert took_s < CUT_S + (3 if how == "expire" else 0)
    talk(unconfined.run_dir / "symphony.sock", lambda client: client.kill(pid, "KILL"))


def test_a_program_whose_run_rpc_was_cut_with_its_token_ends(unconfined):
    header = (("authorization", f"Bearer {add(unconfined, 'run-rpc', scopes=('run',))}"),)
    with grpc.insecure_channel(addresses(unconfined)[0]) as channel:
        request = process_pb2.RunRequest(program=process_pb2.Program(source=SPIN))
        rpc = process_pb2_grpc.ProcessServiceStub(channel).Run(request, metadata=header)
        pid = next(rpc).pid
        tokens(unconfined).revoke("run-rpc")
        with pytest.raises(grpc.RpcError) as ended:
            for _ in rpc:
                pass

    assert "the token run-rpc was revoked" in from_trailer(ended.value.trailing_metadata()).message
    assert eventually(lambda: f'"pid": {pid},' not in unconfined.run("ps", "--json").stdout)


def test_open_calls_of_others_go_on_when_a_token_is_revoked(server, program):
    token = add(server, "bystander", OWN.principal)
    run = server.start("run", program(SPIN))
    assert run.stdout.readline() == "spinning\n"

    async def work(client):
        (process,) = [p for p in await client.ps() if p.state == "running"]
        waiting = asyncio.create_task(client.wait(process.pid))
        await until_sent(client)
        tokens(server).revoke("bystander")
        with pytest.raises(Unauthenticated, match="the token bystander was revoked"):
            await waiting

    talk(addresses(server)[0], work, token)

    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130


def test_where_programs_have_no_users_of_their_own_only_the_servers_user_starts_them(server, program):
    token = add(server, "runner", scopes=("run", "admin"))

    for target in (server.run_dir / "symphony.sock", addresses(server)[0]):
        with pytest.raises(NotOwner, match="symphony serve --unconfined"):
            talk(target, lambda client: client.spawn(HELLO, who="you"), token)
    assert server.run("run", program(HELLO), "--who", "you").returncode == 0
    mine = add(server, "mine", OWN.principal, scopes=("run",))
    assert talk(addresses(server)[0], lambda client: client.spawn(HELLO, who="you"), mine) > 0


def test_scope_run_is_needed_to_start_programs_and_for_nothing_else(unconfined):
    without, with_run = add(unconfined, "without"), add(unconfined, "with", scopes=("run",))
    target = addresses(unconfined)[0]

    with pytest.raises(NotOwner, match="scope run is needed"):
        talk(target, lambda client: client.spawn(HELLO, who="you"), without)
    assert talk(target, lambda client: client.tokenize("ab"), without) == [97, 98]
    assert talk(target, lambda client: client.ls(), without) == []

    async def run(client):
        result = await client.run(HELLO, who="you").result()
        return result.value["who"], result.process.principal

    assert talk(target, run, with_run) == ("you", "alice")


def test_callers_at_the_same_time_are_not_mixed_up(unconfined):
    names = [f"p{i}" for i in range(8)]
    held = {name: add(unconfined, f"mixed-{name}", name, scopes=("run",)) for name in names}

    async def one(name: str) -> set[str]:
        async with connect(addresses(unconfined)[0], token=held[name]) as client:
            results = await asyncio.gather(*(client.run(HELLO, who=name).result() for _ in range(3)))
            return {r.process.principal for r in results}

    async def main() -> list[set[str]]:
        return await asyncio.gather(*map(one, names))

    assert asyncio.run(asyncio.wait_for(main(), 60)) == [{name} for name in names]


def test_the_own_token_is_found_by_the_command_line_and_the_sdk(server):
    for address in addresses(server):
        talk(address, ping)
        assert server.run("ps", "--server", address).returncode == 0
    assert server.run("ps", env={"SYMPHONY_SERVER": addresses(server)[0]}).returncode == 0


def test_an_own_token_with_mode_0644_is_refused_by_clients(fresh_server, monkeypatch):
    server = fresh_server("--listen", "127.0.0.1:0")
    (server.run_dir / "token").chmod(0o644)
    monkeypatch.setenv("SYMPHONY_RUN_DIR", str(server.run_dir))

    done = server.run("ps", "--server", addresses(server)[0])

    assert done.returncode == 1
    assert "EACCES" in done.stderr and "mode 0644" in done.stderr
    with pytest.raises(AccessDenied, match="mode 0644"):
        talk(addresses(server)[0], ping)
    server.stop()
    assert not (server.run_dir / "token").exists()


def test_a_token_file_with_mode_0644_opens_no_door(fresh_server):
    server = fresh_server("--listen", "127.0.0.1:0")
    token = add(server, "ci")
    talk(addresses(server)[0], ping, token)

    (server.run_dir / "state" / "tokens.json").chmod(0o644)

    with pytest.raises(Unauthenticated, match="its token file is unusable"):
        talk(addresses(server)[0], ping, token)
    assert "mode 0644" in (server.run_dir / "serve.log").read_text()
    assert server.run("ps").returncode == 0
    server.stop()


def test_tokens_of_the_environment_and_of_a_file_reach_the_server(server, tmp_path):
    path = tmp_path / "t"
    path.write_text(add(server, "by-file", "bob") + "\n")
    address = addresses(server)[0]
    (tmp_path / "wrong").write_text("sym_wrong\n")

    ways = (("--token-file", str(path)), {}), ((), {"SYMPHONY_TOKEN": path.read_text()}), ((), {"SYMPHONY_TOKEN_FILE": str(path)})
    for words, env in ways:
        done = server.run("ps", "--server", address, *words, env=env)
        assert done.returncode == 0, done.stderr
        last = (server.run_dir / "serve.log").read_text().splitlines()[-1]
        assert " bob ipv4:127.0.0.1:" in last
    done = server.run("ps", "--token-file", str(tmp_path / "wrong"))
    assert done.returncode == 1 and "UNAUTHENTICATED: malformed or truncated token" in done.stderr


def test_a_session_of_a_token_ends_with_it(server):
    token = add(server, "session")
    header = (("authorization", f"Bearer {token}"),)
    requests: queue.SimpleQueue = queue.SimpleQueue()
    requests.put(session_pb2.ConnectRequest(hello=session_pb2.Hello(abi_major=ABI_MAJOR, abi_minor=ABI_MINOR, lease_s=1.0)))

    with grpc.insecure_channel(addresses(server)[0]) as channel:
        rpc = session_pb2_grpc.SessionServiceStub(channel).Connect(iter(requests.get, None), metadata=header)
        hello = next(rpc).hello
        tokens(server).revoke("session")
        with pytest.raises(grpc.RpcError) as ended:
            next(rpc)
        requests.put(None)

    error = from_trailer(ended.value.trailing_metadata())
    assert hello.pid > 0
    assert isinstance(error, Unauthenticated) and "the token session was revoked" in error.message


@pytest.mark.parametrize(("is_unconfined", "scopes"), [(True, ()), (False, ()), (False, ("run",)), (False, ("admin", "run"))])
def test_a_session_is_no_way_around_scope_run(server, unconfined, is_unconfined, scopes):
    server = unconfined if is_unconfined else server
    header = (("authorization", f"Bearer {add(server, f'session-{len(scopes)}', scopes=scopes)}"),)
    with grpc.insecure_channel(addresses(server)[0]) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        made = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=30), metadata=header)
        spawn = session_pb2.CallRequest(pid=made.pid, resume=made.resume)
        call_message("spawn", calls.Spawn("async def main(): ..."), spawn.call)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Call(spawn, metadata=header)
        stub.EndSession(session_pb2.EndSessionRequest(pid=made.pid, resume=made.resume), metadata=header)

    error = from_trailer(refused.value.trailing_metadata())
    assert isinstance(error, NotOwner) and "scope run" in error.message
