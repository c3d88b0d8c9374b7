"""What the audit log of a running server says, and does not say."""

import json
import subprocess
import sys
import time

import grpc
import pytest

from tests.commanded import environment
from tests.conformance.host import eventually
from tests.doors.conftest import Grpc
from tests.doors.test_grpc import WAIT_S, channel, ended, ping, shown
from tests.wire.conftest import Served, until_serving
from vllm_symphony.proto.v1 import call_pb2, file_pb2, process_pb2, session_pb2
from vllm_symphony.proto.v1.file_pb2_grpc import FileServiceStub
from vllm_symphony.proto.v1.process_pb2_grpc import ProcessServiceStub
from vllm_symphony.proto.v1.session_pb2_grpc import SessionServiceStub

pytestmark = [pytest.mark.xdist_group("doors")]

SECRET = "a text that nobody else may read"
SOURCE = f"async def main(note=''):\n    '''{SECRET}'''\n    import asyncio\n    while True:\n        await asyncio.sleep(1)\n"


def symphony(door: Grpc, *words: str) -> str:
    command = [sys.executable, "-m", "vllm_symphony.cli.main", *words]
    env = environment(door.served.run_dir)
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout


def lines(door: Grpc, *words: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in symphony(door, "audit", "--json", *words).splitlines()]


def test_control_actions_are_recorded_with_who_and_whom_and_never_what_was_sent(door):
    token = door.token("dora", "run")
    dora, token_id = shown(token), token.split("_")[1]
    with channel(door) as made:
        stub, files = ProcessServiceStub(made), FileServiceStub(made)
        program = process_pb2.Program(source=SOURCE, name="idle", args=json.dumps({"note": SECRET}))
        asked = process_pb2.SpawnRequest(program=program, request_id="the-first")
        pid = stub.Spawn(asked, timeout=WAIT_S, metadata=dora).pid
        stub.Kill(process_pb2.KillRequest(pid=pid, signal=process_pb2.SIGNAL_KILL), timeout=WAIT_S, metadata=dora)
        files.Mkdir(file_pb2.MkdirRequest(path="/dora", mode=0o700), timeout=WAIT_S, metadata=dora)
        files.Chmod(file_pb2.ChmodRequest(path="/dora", mode=0o750), timeout=WAIT_S, metadata=dora)
        chown = ended(lambda: files.Chown(file_pb2.ChownRequest(path="/dora", owner="eve"), timeout=WAIT_S, metadata=dora))

    found = {str(line["action"]): line for line in lines(door, "--principal", "dora")}
    assert found["spawn"]["request_id"] == "the-first" and found["spawn"]["target"] == "idle" and found["spawn"]["outcome"] == "OK"
    assert found["kill"]["target"] == str(pid) and found["chmod"]["target"] == "/dora"
    assert found["chown"]["outcome"] == "EPERM" == chown.split()[1]
    for line in found.values():
        assert line["door"] == "tcp" and line["token"] == token_id and str(line["peer"]).startswith("127.0.0.1:")
        assert float(str(line["ms"])) >= 0 and abs(float(str(line["t_s"])) - time.time()) < 600
    text = (door.served.run_dir / "state" / "audit" / "audit.jsonl").read_text()
    assert SECRET not in text and token not in text


def test_the_calls_of_a_session_are_recorded_as_others_are(door):
    zoe = shown(door.token("zoe"))
    with channel(door) as made:
        stub = SessionServiceStub(made)
        session = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=30), timeout=WAIT_S, metadata=zoe)
        asked = session_pb2.CallRequest(pid=session.pid, resume=session.resume)
        asked.call.CopyFrom(call_pb2.Call(kill=call_pb2.Kill(pid=1_000_000, signal="TERM")))
        unary = ended(lambda: stub.Call(asked, timeout=WAIT_S, metadata=zoe))

        def requests():
            yield session_pb2.ConnectRequest(hello=session_pb2.Hello(abi_major=1, pid=session.pid, resume=session.resume))
            chmod = call_pb2.Chmod(mode=0o777, path="/nowhere-of-zoe")
            yield session_pb2.ConnectRequest(call=call_pb2.Call(id=7, chmod=chmod))
            while not heard:
                time.sleep(0.01)

        heard: list[object] = []
        for response in stub.Connect(requests(), timeout=WAIT_S, metadata=zoe):
            if response.WhichOneof("message") == "answer":
                heard.append(response)
        stub.EndSession(session_pb2.EndSessionRequest(pid=session.pid, resume=session.resume), timeout=WAIT_S, metadata=zoe)

    found = {str(line["action"]): line for line in lines(door, "--principal", "zoe")}
    assert unary.split()[1] == found["kill"]["outcome"] and found["kill"]["target"] == "1000000"
    assert found["chmod"]["target"] == "/nowhere-of-zoe" and found["chmod"]["outcome"] == "ENOENT"


def test_who_was_not_let_in_is_recorded_a_few_times_and_counted(door):
    with channel(door) as made:
        for _ in range(200):
            assert ended(ping(made, *shown("sym_" + "1" * 12 + "_" + "2" * 64))).startswith("UNAUTHENTICATED")

    found = [line for line in lines(door, "--outcome", "denied") if line["principal"] == "-"]
    assert 1 <= len(found) <= 150
    assert all(line["outcome"] == "UNAUTHENTICATED" and str(line["peer"]).startswith("127.0.0.1:") for line in found)


def test_the_log_is_shown_and_followed_and_the_start_stands_in_it(door):
    shown_lines = symphony(door, "audit", "--action", "start").splitlines()
    assert "start server OK" in shown_lines[0] and "--rate-limit" in shown_lines[0]

    command = [sys.executable, "-m", "vllm_symphony.cli.main", "audit", "-f", "--action", "token add"]
    with subprocess.Popen(command, env=environment(door.served.run_dir), stdout=subprocess.PIPE, text=True) as following:
        symphony(door, "token", "add", "followed", "--principal", "finn", "--rate", "5/s")
        assert following.stdout is not None
        line = next(text for text in following.stdout if "followed" in text)
        following.terminate()
    assert "holder=finn" in line and "sym_" not in line


@pytest.mark.parametrize("required", [True, False])
def test_a_log_that_cannot_be_written_is_said_and_where_it_is_required_nothing_starts(tmp_path, required):
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "audit").write_text("a file, where a folder should be")
    flags = ("--audit-required",) if required else ()
    command = [sys.executable, "-m", "vllm_symphony.cli.main", "serve", "--device", "sim", *flags]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(tmp_path), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    served = Served(tmp_path, process)
    try:
        if required:
            assert process.wait(60) != 0
            assert "EAGAIN: the audit log cannot be written, and this server does nothing that it cannot record" in served.said()
            return
        with grpc.insecure_channel(served.address) as made:
            until_serving(made, served)
            program = process_pb2.Program(source="async def main():\n    pass")
            for _ in range(3):
                ProcessServiceStub(made).Spawn(process_pb2.SpawnRequest(program=program), timeout=WAIT_S)
        assert served.said().count("actions are not recorded until it can") == 1
    finally:
        process.terminate()
        process.wait(30)


def test_what_an_admin_looks_at_is_recorded(door):
    with grpc.insecure_channel(door.served.address) as made:
        stub = ProcessServiceStub(made)
        stub.ListProcesses(process_pb2.ListProcessesRequest(), timeout=WAIT_S)

        eventually(lambda: any(line["target"] == "all" for line in lines(door, "--action", "ps")), lambda: "no line of ps")
    nobody = shown(door.token("nobody-special"))
    with channel(door) as made:
        ProcessServiceStub(made).ListProcesses(process_pb2.ListProcessesRequest(), timeout=WAIT_S, metadata=nobody)
    assert lines(door, "--principal", "nobody-special") == []
