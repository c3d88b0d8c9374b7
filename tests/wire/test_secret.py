"""A session's resume token is a secret: it is in the answer to its hello, and nowhere else."""

import contextlib
import logging
from collections.abc import Iterator

import grpc
import pytest

from tests.conformance.host import ServerHost
from tests.unit.engine.reactor_rig import Client
from tests.wire.conftest import Served
from tests.wire.remote import Remote
from vllm_symphony.abi.calls import Append, Attach, Hello, NoArgs, PidArgs, Ps, Random, Strace
from vllm_symphony.abi.codec import call_frame
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Credentials
from vllm_symphony.errors import SymphonyError
from vllm_symphony.proto.message import call_message
from vllm_symphony.proto.v1 import process_pb2, process_pb2_grpc, session_pb2, session_pb2_grpc, system_pb2, system_pb2_grpc

ME = Credentials("ann")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_it_is_in_no_log_no_error_and_in_nothing_that_others_see(host: ServerHost, logged: pytest.LogCaptureFixture):
    remote = Remote(host.path)
    edge, viewer = Client(host.path, "edge"), Client(host.path)
    seen: list[object] = []

    edge.ask("random", Random(4), cred=ME, session=remote.pid, resume=remote.token, request_id="r")
    for wrong in (
        {"session": remote.pid + 100},
        {"session": remote.pid, "cred": Credentials("bob")},
        {"tid": 9, "session": remote.pid},
    ):
        with pytest.raises(SymphonyError) as refused:
            edge.ask("append", Append(3, bytes(100_000)), **{"cred": ME, "resume": remote.token, **wrong})
        seen.append((str(refused.value), refused.value.values))
    for hello in (
        Hello(ABI_MAJOR, ABI_MINOR, pid=remote.pid + 1, resume=remote.token),
        Hello(9, 9, pid=remote.pid, resume=remote.token),
    ):
        stranger = Client(host.path, role=None)
        with pytest.raises(SymphonyError) as refused:
            stranger.ask("hello", hello)
        seen.append((str(refused.value), refused.value.values))
        stranger.close()
    broken = Client(host.path, role=None)
    broken.sock.sendall(call_frame(1, "hello", NoArgs(), resume=remote.token)[:-1] + b"\xff")
    seen.append(broken.answer())
    broken.close()
    for op, args in (
        ("strace", Strace()),
        ("attach", Attach(remote.pid, follow=False)),
        ("why", PidArgs(remote.pid)),
        ("ps", Ps()),
        ("info", NoArgs()),
    ):
        parts: list[object] = []
        seen += [viewer.ask(op, args, parts), parts]
    remote.close()
    edge.close()
    viewer.close()

    assert remote.token not in repr(seen)
    assert remote.token not in logged.text
    assert len(seen) == 16, "all of it was looked at"


def test_a_server_at_its_most_talkative_does_not_say_it(served: Served):
    with grpc.insecure_channel(served.address) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        session = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=60))
        request = session_pb2.CallRequest(pid=session.pid, resume=session.resume)
        call_message("append", Append(99, bytes(100_000)), request.call)
        errors = []
        for pid, tid in ((session.pid, 0), (session.pid, 7), (session.pid + 1000, 0), (2**62, 0)):
            request.pid, request.call.tid = pid, tid
            with pytest.raises(grpc.RpcError) as refused:
                stub.Call(request)
            errors.append(f"{refused.value.details()} {refused.value.trailing_metadata()}")
        trace = "".join(map(str, process_pb2_grpc.ProcessServiceStub(channel).Strace(process_pb2.StraceRequest())))
        stub.EndSession(session_pb2.EndSessionRequest(pid=session.pid, resume=session.resume))
        with contextlib.suppress(grpc.RpcError):
            stub.KeepAlive(session_pb2.KeepAliveRequest(pid=session.pid, resume=session.resume))
        system_pb2_grpc.SystemServiceStub(channel).Ping(system_pb2.PingRequest())

    assert "append" in trace and "CreateSession" in served.said(), "there is something to look at"
    assert session.resume not in trace + "".join(errors) + served.said()
