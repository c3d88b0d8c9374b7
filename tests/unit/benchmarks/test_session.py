"""The client without asyncio, against a kernel of a few lines."""

import socket
import threading

import pytest

from benchmarks.apart import Failed
from benchmarks.session import Child, Session
from vllm_symphony.abi import calls
from vllm_symphony.abi.codec import error_frame, part_frame, read_call, reply_frame
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.types import ProcessEvent
from vllm_symphony.errors import NoSuchFile

EVENTS = (
    ProcessEvent(1, 0, "started", "", 5),
    ProcessEvent(2, 0, "emit", '{"ready": true}', 5),
    ProcessEvent(3, 0, "stdout", "hello\n", 5),
    ProcessEvent(4, 0, "exit", '{"code": 0, "reason": "exit", "value": "[1.5]", "error": null}', 5),
)


def serve(listener):
    sock, _ = listener.accept()
    reader = FrameReader()
    with sock:
        while data := sock.recv(1 << 16):
            for body in reader.feed(data):
                call = read_call(body)
                sock.sendall(answer(call))


def answer(call):
    if call.op == "attach":
        parts = [part_frame(call.id, calls.AttachPart((event,))) for event in EVENTS]
        return b"".join([*parts, reply_frame(call.id, calls.Done())])
    if call.op == "unlink":
        return error_frame(call.id, NoSuchFile("no such file: /a"))
    results = {"hello": calls.HelloResult(1, 0, 1), "spawn": calls.PidResult(5)}
    return reply_frame(call.id, results.get(call.op, calls.Done()))


@pytest.fixture
def session(tmp_path):
    path = str(tmp_path / "kernel.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with Session(path) as session:
            yield session
        thread.join()


def test_a_child_is_heard_to_its_end(session):
    child = session.spawn("text", "name", num_tokens=3)

    session.pump(lambda: child.exit is not None)

    assert child.emitted == [{"ready": True}]
    assert child.printed == ["hello\n"]
    assert child.value() == [1.5]
    assert child.spawned <= child.first_print <= child.ended


def test_an_error_is_raised_as_what_it_is(session):
    with pytest.raises(NoSuchFile):
        session.remove("/a")


def test_a_program_that_failed_has_no_value():
    child = Child(5, 0.0, printed=["Traceback: boom\n"], exit={"code": 1, "value": None})

    with pytest.raises(Failed, match="boom"):
        child.value()


def test_waiting_ends():
    ours, theirs = socket.socketpair()
    session = Session.__new__(Session)
    session._sock, session._waiting = ours, {1: "spawn"}

    with ours, theirs, pytest.raises(Failed, match="spawn"):
        session.pump(lambda: False, timeout_s=0.01)
