"""Anything on the gRPC door: any bytes to any method, any value in any field. Who sends it hears a typed error, others nothing."""

import asyncio
import json
import threading
from collections.abc import Iterator
from itertools import count as numbers

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.host import eventually
from tests.counts import count
from tests.wire.conftest import Served
from tests.wire.fuzz import args_of
from vllm_symphony.abi.calls import Append, Emit, Forward, NoArgs, Read
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.errors import BY_REASON, InvalidArgument
from vllm_symphony.proto.message import call_message
from vllm_symphony.proto.v1 import (
    call_pb2,
    file_pb2,
    model_pb2,
    process_pb2,
    session_pb2,
    session_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)

SERVICES = [
    s for module in (file_pb2, model_pb2, process_pb2, session_pb2, system_pb2) for s in module.DESCRIPTOR.services_by_name.values()
]
METHODS = [pytest.param(m, id=f"{m.containing_service.name}.{m.name}") for s in SERVICES for m in s.methods]
BY_ITSELF = ("spawn", "sleep", "exit", "wait", "kill", "flock")  # takes its time, or ends the session
OPS = tuple(op.name for op in call_pb2.Call.DESCRIPTOR.oneofs_by_name["args"].fields if op.name not in BY_ITSELF)
WAIT_S = 60.0
HELLO = {"abi_major": ABI_MAJOR, "abi_minor": ABI_MINOR}


@pytest.fixture
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.address, options=(("grpc.max_send_message_length", -1),)) as channel:
        yield channel


@pytest.fixture
def friend(served: Served) -> Iterator[system_pb2_grpc.SystemServiceStub]:
    """Somebody else, who is served all the time; at the end nothing is left in the server."""
    with grpc.insecure_channel(served.address) as channel:
        stub = system_pb2_grpc.SystemServiceStub(channel)
        yield stub
        ping(stub)
        assert served.process.poll() is None
        eventually(lambda: left(stub) == {}, lambda: str(left(stub)))


def ping(stub: system_pb2_grpc.SystemServiceStub) -> None:
    stub.Ping(system_pb2.PingRequest(), timeout=WAIT_S)


def left(stub: system_pb2_grpc.SystemServiceStub) -> dict[str, int]:
    """What the kernel holds beside the edge's own connection and this call."""
    held = json.loads(stub.GetInfo(system_pb2.GetInfoRequest(), timeout=WAIT_S).detail)["kernel"]
    held["files"] -= held["named_files"]  # those stay, as they should
    kinds = ("sessions", "programs", "jobs", "files", "fds", "timers", "viewers", "tracers")
    return {kind: held[kind] for kind in kinds if held[kind]} | ({"processes": held["processes"]} if held["processes"] > 1 else {})


def reason_of(error: grpc.RpcError) -> str | None:
    """The typed reason; None where gRPC itself refused."""
    trailer = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if trailer is None:
        return None
    info = ErrorInfo()
    for detail in Status.FromString(trailer).details:
        detail.Unpack(info)
    return info.reason


def refused(error: grpc.RpcError) -> str:
    """The reason, which is ours and no fault of ours."""
    reason = reason_of(error)
    assert reason in BY_REASON and reason != "EIO", f"{error.code()}: {error.details()}"
    assert "internal error" not in str(error.details())
    return reason


def speak(channel: grpc.Channel, method, data: list[bytes]) -> list[bytes]:
    """Call a method with raw messages, and give the raw answers."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if method.client_streaming:
        return list(channel.stream_stream(path)(iter(data), timeout=WAIT_S))
    if method.server_streaming:
        answers = channel.unary_stream(path)(data[0], timeout=WAIT_S)
        first = next(answers, None)
        answers.cancel()
        return [] if first is None else [first]
    return [channel.unary_unary(path)(data[0], timeout=WAIT_S)]


@pytest.mark.parametrize("method", METHODS)
def test_any_bytes_to_any_method_are_refused_or_answered(channel, friend, method):
    @settings(max_examples=count(15, 1000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
    def run(data: list[bytes]) -> None:
        try:
            speak(channel, method, data)
        except grpc.RpcError as error:
            refused(error)
        ping(friend)

    run()


def test_an_empty_message_to_any_method_is_refused_or_answered(channel, friend):
    for param in METHODS:
        try:
            speak(channel, param.values[0], [b""])
        except grpc.RpcError as error:
            refused(error)
        ping(friend)


# ---- a session's calls


@pytest.fixture
def stub(channel) -> session_pb2_grpc.SessionServiceStub:
    return session_pb2_grpc.SessionServiceStub(channel)


@pytest.fixture
def session(stub, friend) -> Iterator[session_pb2.CreateSessionResponse]:
    session = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=600))
    yield session
    stub.EndSession(session_pb2.EndSessionRequest(pid=session.pid, resume=session.resume))


def request_of(session, op, args, **beside):
    request = session_pb2.CallRequest(pid=session.pid, resume=session.resume)
    call_message(op, args, request.call)
    for name, value in beside.items():
        target = request if name in ("pid", "resume") else request.call
        setattr(target, name, value)
    return request


@pytest.mark.timeout(900)
def test_any_values_in_any_call_get_a_result_or_a_typed_error(stub, session, friend):
    @settings(
        max_examples=count(150, 10_000), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
    )
    @given(st.data())
    def run(data) -> None:
        op = data.draw(st.sampled_from(OPS))
        try:
            request = request_of(session, op, data.draw(args_of(op)))
        except InvalidArgument:
            return  # a number that no message can hold
        try:
            stub.Call(request, timeout=WAIT_S)
        except grpc.RpcError as error:
            refused(error)

    run()


FORGED = [
    ({"pid": 1}, "ESRCH"),
    ({"pid": 2**53 - 1}, "ESRCH"),
    ({"pid": 2**53}, "EINVAL"),
    ({"pid": 2**63 - 1}, "EINVAL"),
    ({"pid": 0}, "EINVAL"),
    ({"pid": -5}, "EINVAL"),
    ({"resume": ""}, "ESRCH"),
    ({"resume": "x" * 128}, "ESRCH"),
    ({"resume": "x" * 129}, "EINVAL"),
    ({"resume": "é" * 100_000}, "EINVAL"),
    ({"tid": 7}, "EINVAL"),
    ({"tid": 2**64 - 1}, "EINVAL"),
    ({"tid": 2**62}, "EINVAL"),
    ({"request_id": "r" * 129}, "EINVAL"),
    ({"request_id": "r" * 1_000_000}, "EINVAL"),
]


@pytest.mark.parametrize(("forged", "reason"), FORGED, ids=[f"{next(iter(f))}-{n}" for n, (f, _) in enumerate(FORGED)])
def test_a_forged_field_is_refused_and_the_edge_keeps_its_link(stub, session, friend, forged, reason):
    for op, args in (("getpid", NoArgs()), ("append", Append(3, bytes(400_000)))):
        with pytest.raises(grpc.RpcError) as error:
            stub.Call(request_of(session, op, args, **forged), timeout=WAIT_S)

        assert refused(error.value) == reason
        ping(friend)


@pytest.mark.parametrize(
    ("op", "args", "reason"),
    [
        ("append", Append(3, bytes(400_000)), "EBADF"),
        ("append", Append(3, bytes(20 << 20)), "EINVAL"),
        ("emit", Emit("1" * 1_000_000), "EINVAL"),
        ("forward", Forward(3, bytes(400_001)), "EBADF"),
        ("read", Read(path="/" + "x" * 500_000), "ENAMETOOLONG"),
    ],
    ids=numbers(),
)
def test_a_large_call_that_is_refused_ends_nothing(stub, session, friend, op, args, reason):
    with pytest.raises(grpc.RpcError) as error:
        stub.Call(request_of(session, op, args), timeout=WAIT_S)

    assert refused(error.value) == reason
    ping(friend)


def test_a_message_larger_than_the_server_takes_is_refused_by_grpc(stub, session, friend):
    with pytest.raises(grpc.RpcError) as error:
        stub.Call(request_of(session, "append", Append(3, bytes(65 << 20))), timeout=WAIT_S)

    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# ---- Connect


def hello(**fields):
    return session_pb2.ConnectRequest(hello=session_pb2.Hello(**{**HELLO, **fields}))


def called(call_id, op="getpid", args=None, *, ack=0, **fields):
    request = session_pb2.ConnectRequest(ack=ack)
    call_message(op, args or NoArgs(), request.call)
    request.call.id = call_id
    for name, value in fields.items():
        setattr(request.call, name, value)
    return request


NO_SESSION = [
    ([session_pb2.ConnectRequest()], "EINVAL"),
    ([session_pb2.ConnectRequest(ack=3)], "EINVAL"),
    ([called(1)], "EINVAL"),
    ([hello()], "EINVAL"),
    ([hello(lease_s=float("nan"))], "EINVAL"),
    ([hello(lease_s=-1)], "EINVAL"),
    ([hello(lease_s=1e9)], "EINVAL"),
    ([hello(lease_s=5, name="n" * 256)], "EINVAL"),
    ([hello(lease_s=5, abi_major=99)], "ENOTSUP"),
    ([hello(pid=-1, resume="x")], "ESRCH"),
    ([hello(pid=2**63 - 1)], "ESRCH"),
    ([hello(pid=1, resume="x" * 100_000)], "ESRCH"),
    ([], "EINVAL"),
]


@pytest.mark.parametrize(("messages", "reason"), NO_SESSION, ids=range(len(NO_SESSION)))
def test_a_connect_that_begins_wrong_is_refused(stub, friend, messages, reason):
    with pytest.raises(grpc.RpcError) as error:
        list(stub.Connect(iter(messages), timeout=WAIT_S))

    assert refused(error.value) == reason


WRONG_NEXT = [
    hello(lease_s=5),
    session_pb2.ConnectRequest(),
    session_pb2.ConnectRequest(ack=-1),
    session_pb2.ConnectRequest(ack=99),
    session_pb2.ConnectRequest(ack=2**63 - 1),
    session_pb2.ConnectRequest(call={"id": 2}),
    called(1),
    called(2**53),
    called(2**63 - 1),
    called(2, ack=99),
    called(2, tid=2**53),
    called(2, request_id="r" * 1000),
    called(2, "append", Append(3, bytes(17 << 20))),
]


@pytest.mark.parametrize("message", WRONG_NEXT, ids=range(len(WRONG_NEXT)))
def test_a_wrong_message_ends_the_connection_and_not_the_session(stub, session, friend, message):
    ended = threading.Event()

    def says() -> Iterator[session_pb2.ConnectRequest]:
        yield from (hello(pid=session.pid, resume=session.resume), called(1), message, called(3))
        ended.wait()  # who hangs up hears nothing more

    with pytest.raises(grpc.RpcError) as error:
        list(stub.Connect(says(), timeout=WAIT_S))
    ended.set()

    assert refused(error.value) == "EINVAL"
    stub.KeepAlive(session_pb2.KeepAliveRequest(pid=session.pid, resume=session.resume))
    ping(friend)


def test_hanging_up_half_way_is_the_end_of_the_connection_only(stub, session, friend):
    answers = list(stub.Connect(iter([hello(pid=session.pid, resume=session.resume)]), timeout=WAIT_S))

    assert [a.WhichOneof("message") for a in answers] == ["hello"]
    stub.KeepAlive(session_pb2.KeepAliveRequest(pid=session.pid, resume=session.resume))


@pytest.mark.timeout(300)
def test_many_connect_at_once_and_each_is_served(served: Served, friend):
    num = count(100, 500)

    async def one(stub: session_pb2_grpc.SessionServiceStub) -> int:
        stream = stub.Connect()
        await stream.write(hello(lease_s=5))
        pid = (await stream.read()).hello.pid
        await stream.write(called(1, "random", CALLS["random"].args(8)))
        assert len((await stream.read()).answer.bytes_result.data) == 8
        await stream.write(called(2, "exit", CALLS["exit"].args(0), ack=1))
        await stream.read()
        stream.cancel()
        return pid

    async def all_of_them() -> list[int]:
        async with grpc.aio.insecure_channel(served.address) as channel:
            return await asyncio.gather(*(one(session_pb2_grpc.SessionServiceStub(channel)) for _ in range(num)))

    assert len(set(asyncio.run(all_of_them()))) == num
