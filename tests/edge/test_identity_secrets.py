"""No secret shows anywhere: tokens are used and misused against a server at log level debug, then all is searched for them."""

import subprocess
import time
from pathlib import Path

import grpc
import pytest

from tests.edge.test_command_line import HELLO, SPIN
from tests.edge.test_identity import add, addresses, tokens
from vllm_symphony.edge.token import split
from vllm_symphony.proto.v1 import process_pb2, process_pb2_grpc, system_pb2, system_pb2_grpc

SHOWS_ENVIRONMENT = "import os\n\nasync def main():\n    print(dict(os.environ))\n"


@pytest.fixture
def server(fresh_server):
    server = fresh_server("--listen", "127.0.0.1:0", "--log-level", "debug", "--unconfined")
    yield server
    server.stop()


def command_lines() -> str:
    """Those of all processes of the machine, as `ps` shows them."""
    return subprocess.run(["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True).stdout


def attempts(address: str, text: str) -> list[str]:
    """Errors of RPCs that show the token in right and wrong ways, as text with all that gRPC knows of them."""
    headers = (
        ("authorization", f"Bearer {text}"),
        ("authorization", f"Bearer {text[:-1]}"),
        ("authorization", text),
        ("x-api-key", text),
        ("x-other", f"a {text} b"),
    )
    said = []
    with grpc.insecure_channel(address, options=(("grpc.default_authority", f"{text}@localhost"),)) as channel:
        ping = system_pb2_grpc.SystemServiceStub(channel).Ping
        for metadata in ((), *((h,) for h in headers), (headers[0], headers[0])):
            with pytest.raises(grpc.RpcError) as refused:
                ping(system_pb2.PingRequest(), metadata=metadata)
            said.append(repr(refused.value) + str(refused.value) + str(refused.value.trailing_metadata()))
        with pytest.raises(grpc.RpcError) as refused:
            for _ in process_pb2_grpc.ProcessServiceStub(channel).Strace(process_pb2.StraceRequest(), metadata=(headers[1],)):
                pass
        said.append(repr(refused.value))
    return said


def test_no_secret_shows_in_logs_errors_traces_or_command_lines(server, program, tmp_path):
    good, revoked = add(server, "good", scopes=("run", "admin")), add(server, "revoked", scopes=("run",))
    expired = add(server, "expired", expires_s=time.time() - 1)
    own = (server.run_dir / "token").read_text().splitlines()[0]
    address = addresses(server)[0]
    (tmp_path / "good").write_text(good)
    (tmp_path / "long").write_text(good + " " + good)
    file = ("--token-file", str(tmp_path / "good"))
    seen: dict[str, str] = {}

    run = server.start("run", program(SPIN, "spin.py"), "--server", address, env={"SYMPHONY_TOKEN": revoked})
    assert run.stdout.readline() == "spinning\n"
    seen["command lines"] = command_lines()
    tokens(server).revoke("revoked")
    seen["revoked run"] = "".join(run.communicate(timeout=60))
    assert "the token revoked was revoked" in seen["revoked run"]
    for name, text in {"revoked": revoked, "expired": expired}.items():
        seen[f"errors of {name}"] = "".join(attempts(address, text))
    for i, (words, env) in enumerate(
        [
            (("run", program(HELLO, "hello.py"), "--who", "you", *file), {}),
            (("run", program(SHOWS_ENVIRONMENT, "env.py"), *file), {}),
            (("info", "--json", *file), {}),
            (("info", "--server", address), {}),
            (("strace", "--once", "--json", *file), {}),
            (("ps", "--all", "--json", *file), {}),
            (("ls",), {"SYMPHONY_TOKEN": expired}),
            (("ls",), {"SYMPHONY_TOKEN": good + "\n" + good}),
            (("ls", "--token-file", str(tmp_path / "long")), {}),
            (("ls", "--server", f"{good}@localhost:1"), {}),
            (("ls", "--server", f"grpcs://{good}:1"), {}),
            (("ls", "--server", "10.1.2.3:5"), {"SYMPHONY_TOKEN": good}),
            (("ls", "--server", "127.0.0.1:1"), {"SYMPHONY_TOKEN": good}),
            (("token", "list"), {}),
            (("token", "list", "--json"), {}),
            (("token", "revoke", "good", "--json"), {}),
        ]
    ):
        done = server.run(*words, env=env)
        assert done.returncode in (0, 1, 69), done.stderr
        seen[f"{i} {words[0]}"] = done.stdout + done.stderr
    (server.run_dir / "state" / "tokens.json").write_text("{")
    seen["errors of a damaged file"] = "".join(attempts(address, good))
    for path in (p for p in server.run_dir.rglob("*") if p.is_file() and p.name != "token"):
        seen[str(path)] = path.read_text(errors="replace")

    assert "symphony.access" in seen[str(server.run_dir / "serve.log")]
    assert "tokens.json is damaged" in seen[str(server.run_dir / "serve.log")]
    for text in (good, revoked, expired, own):
        secret = split(text)[1]
        shown = [where for where, what in seen.items() if any(part in what for part in (secret, secret[:16], secret[-16:]))]
        assert shown == []


def test_a_clients_token_in_the_servers_environment_goes_no_further(fresh_server, program, tmp_path):
    token = "sym_0123456789ab_" + "7" * 64
    server = fresh_server(ready=False)
    server.process.kill()
    server.process.wait(60)
    with (tmp_path / "log").open("w") as log:
        process = server.start("serve", stdout=log, stderr=log, env={"SYMPHONY_TOKEN": token})
    assert server.run("info", "--wait", "60").returncode == 0

    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    environments = [Path(f"/proc/{pid}/environ").read_text() for pid in children]
    done = server.run("run", program(SHOWS_ENVIRONMENT))

    assert len(environments) == 1 and "SYMPHONY_RUN_DIR" in environments[0]
    assert done.returncode == 0, done.stderr
    assert token not in environments[0] + done.stdout + (tmp_path / "log").read_text()
    process.terminate()
    process.communicate(timeout=60)
