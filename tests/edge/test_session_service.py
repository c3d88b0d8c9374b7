"""SessionService as any gRPC client sees it: no SDK, plain stubs."""

import queue
import time

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, OpenFlags, pack_tokens, unpack_tokens
from vllm_symphony.proto.message import call_message, outcome_of
from vllm_symphony.proto.status import ABI_HEADER
from vllm_symphony.proto.v1 import process_pb2, process_pb2_grpc, session_pb2, session_pb2_grpc, system_pb2, system_pb2_grpc

NONE = calls.NoArgs()
ANONYMOUS = int(OpenFlags.RDWR | OpenFlags.TMPFILE)


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(f"unix:{server.run_dir / 'symphony.sock'}") as channel:
        yield channel


@pytest.fixture
def stub(channel):
    return session_pb2_grpc.SessionServiceStub(channel)


class Stream:
    """One Connect: `say` a call, `hear` the next message."""

    def __init__(self, stub, hello):
        self._requests = queue.SimpleQueue()
        self._requests.put(session_pb2.ConnectRequest(hello=session_pb2.Hello(**hello)))
        self.rpc = stub.Connect(iter(self._requests.get, None))

    def begin(self):
        self.hello = next(self.rpc).hello
        return self

    def say(self, call_id, op, args=NONE, *, ack=0, **beside):
        request = session_pb2.ConnectRequest(ack=ack)
        request.call.id = call_id
        for name, value in beside.items():
            setattr(request.call, name, value)
        call_message(op, args, request.call)
        self._requests.put(request)

    def hear(self):
        message = next(self.rpc)
        return message.seq, message.answer.id, outcome_of(message.answer)

    def ask(self, call_id, op, args=NONE, **beside):
        self.say(call_id, op, args, **beside)
        return self.hear()[2]

    def ack(self, seq):
        self._requests.put(session_pb2.ConnectRequest(ack=seq))

    def cut(self):
        self.rpc.cancel()

    def close(self):
        self._requests.put(None)  # gRPC's thread reads them
        self.rpc.cancel()


@pytest.fixture
def connect(stub):
    """Makes streams; all are closed in the end."""
    made = []

    def make(**hello):
        made.append(Stream(stub, {"abi_major": ABI_MAJOR, "abi_minor": ABI_MINOR, **hello}))
        return made[-1].begin()

    yield make
    for stream in made:
        stream.close()


def reason_of(error):
    info = ErrorInfo()
    for detail in Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]).details:
        detail.Unpack(info)
    return info.reason


def call(stub, hello, op, args=NONE, **beside):
    request = session_pb2.CallRequest(pid=hello.pid, resume=hello.resume)
    for name, value in beside.items():
        setattr(request.call, name, value)
    call_message(op, args, request.call)
    return outcome_of(stub.Call(request, timeout=20).answer)


def end(stub, hello):
    stub.EndSession(session_pb2.EndSessionRequest(pid=hello.pid, resume=hello.resume))


def test_a_remote_program_computes_with_the_model(stub, connect):
    s = connect(lease_s=30, name="remote")
    opened = s.ask(1, "open", calls.Open(tokens=pack_tokens([65]), flags=ANONYMOUS))

    assert unpack_tokens(s.ask(2, "forward", calls.Forward(opened.fd, pack_tokens([66]), top_k=1)).distributions[0].ids) == [67]
    s.say(3, "generate", calls.Generate(opened.fd, max_tokens=3, stream=True))
    heard = []
    while not heard or not isinstance(heard[-1][2], calls.GenerateResult):
        heard.append(s.hear())

    assert {call_id for _, call_id, _ in heard} == {3} and [seq for seq, _, _ in heard] == list(range(3, 3 + len(heard)))
    assert unpack_tokens(b"".join(part.tokens for _, _, part in heard[:-1])) == unpack_tokens(heard[-1][2].tokens) == [97, 98, 99]
    error = s.ask(4, "close", calls.FdArgs(99))
    assert (error.reason, error.values) == ("EBADF", {"fd": 99})
    end(stub, s.hello)


def test_who_comes_back_gets_what_it_missed_and_tells_what_was_seen(stub, connect):
    first = connect(lease_s=30)
    fd = first.ask(1, "open", calls.Open(tokens=pack_tokens([65]), flags=ANONYMOUS)).fd
    first.say(2, "append", calls.Append(fd, pack_tokens([66])))
    assert first.hear()[0] == 2
    first.cut()

    again = connect(pid=first.hello.pid, resume=first.hello.resume, received=1)

    assert again.hello.last_call == 2 and again.hello.resume == first.hello.resume
    assert again.hear() == (2, 2, calls.LengthResult(2))
    again.ack(2)
    assert again.ask(3, "read", calls.Read(fd)).length == 2
    end(stub, again.hello)


def test_a_second_connection_takes_the_session_over(stub, connect):
    old = connect(lease_s=30)

    new = connect(pid=old.hello.pid, resume=old.hello.resume)

    with pytest.raises(grpc.RpcError) as ended:
        old.hear()
    assert reason_of(ended.value) == "EPIPE"
    assert new.ask(1, "getpid").pid == new.hello.pid
    end(stub, new.hello)


@pytest.mark.parametrize(
    ("call_id", "ack", "says"), [(1, 0, "is not above 1"), (2, 9, "was not sent yet")], ids=["seen before", "ack from the future"]
)
def test_what_cannot_be_true_ends_the_connection_and_not_the_session(stub, connect, call_id, ack, says):
    s = connect(lease_s=30)
    s.ask(1, "getpid")

    s.say(call_id, "getpid", ack=ack)

    with pytest.raises(grpc.RpcError) as ended:
        s.hear()
    assert reason_of(ended.value) == "EINVAL" and says in ended.value.details()
    assert call(stub, s.hello, "getpid").pid == s.hello.pid
    end(stub, s.hello)


def test_unary_calls_are_the_sessions_own_and_happen_once_under_a_request_id(stub):
    made = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=30, name="unary"))
    fd = call(stub, made, "open", calls.Open(tokens=pack_tokens([65]), flags=ANONYMOUS)).fd

    lengths = [call(stub, made, "append", calls.Append(fd, pack_tokens([66])), request_id="a").length for _ in range(3)]

    assert lengths == [2, 2, 2] and call(stub, made, "read", calls.Read(fd)).length == 2
    with pytest.raises(grpc.RpcError) as other:
        call(stub, made, "append", calls.Append(fd, pack_tokens([67])), request_id="a")
    assert reason_of(other.value) == "EINVAL" and "another call" in other.value.details()
    assert stub.KeepAlive(session_pb2.KeepAliveRequest(pid=made.pid, resume=made.resume)).lease_s == 30
    end(stub, made)


def test_a_deadline_ends_a_unary_call_at_the_kernel_too(channel, stub):
    processes = process_pb2_grpc.ProcessServiceStub(channel)
    made = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=30))
    request = session_pb2.CallRequest(pid=made.pid, resume=made.resume)
    call_message("sleep", calls.Sleep(600.0), request.call)

    with pytest.raises(grpc.RpcError) as late:
        stub.Call(request, timeout=0.2)

    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    deadline = time.monotonic() + 60
    while processes.ListProcesses(process_pb2.ListProcessesRequest(pid=made.pid)).processes[0].waiting:
        assert time.monotonic() < deadline, "the kernel still sleeps for it"
    end(stub, made)


def test_a_token_that_is_not_its_own_opens_no_session(stub, connect):
    made = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=30))
    forged = session_pb2.CreateSessionResponse(pid=made.pid, resume=made.resume[:-1] + "!")

    for attempt in (lambda: call(stub, forged, "getpid"), lambda: end(stub, forged), lambda: connect(pid=made.pid, resume="")):
        with pytest.raises(grpc.RpcError) as refused:
            attempt()
        assert reason_of(refused.value) == "ESRCH" and made.resume not in refused.value.details()
    end(stub, made)


def test_a_lease_that_runs_out_ends_the_session_and_its_children(channel, stub, connect):
    processes = process_pb2_grpc.ProcessServiceStub(channel)
    s = connect(lease_s=0.3, name="short")
    source = "from vllm_symphony import lip\nasync def main():\n    await lip.sleep(600)\n"
    child = s.ask(1, "spawn", calls.Spawn(source)).pid
    s.cut()

    ended = [processes.Wait(process_pb2.WaitRequest(pid=pid), timeout=20).exit for pid in (s.hello.pid, child)]

    assert [e.reason for e in ended] == ["lease", "lease"] and ended[0].code == 129
    with pytest.raises(grpc.RpcError) as gone:
        call(stub, s.hello, "getpid")
    assert reason_of(gone.value) == "ESRCH"


@pytest.mark.parametrize("hello", [{}, {"lease_s": -1.0}, {"lease_s": float("nan")}, {"lease_s": 1e9}, {"pid": 99}])
def test_a_hello_that_asks_for_nothing_sensible_is_refused(connect, hello):
    with pytest.raises(grpc.RpcError) as refused:
        connect(**hello)
    assert reason_of(refused.value) == ("ESRCH" if "pid" in hello else "EINVAL")


def test_another_abi_is_told_so_at_every_door(channel, connect):
    with pytest.raises(grpc.RpcError) as at_hello:
        connect(abi_major=2, lease_s=1)
    with pytest.raises(grpc.RpcError) as at_ping:
        system_pb2_grpc.SystemServiceStub(channel).Ping(system_pb2.PingRequest(), metadata=((ABI_HEADER, "2.0"),))

    assert [reason_of(e.value) for e in (at_hello, at_ping)] == ["ENOTSUP", "ENOTSUP"]
    assert system_pb2_grpc.SystemServiceStub(channel).Ping(system_pb2.PingRequest(), metadata=((ABI_HEADER, "1.0"),))


def test_a_session_whose_call_outlives_the_grace_hears_why_it_ends(fresh_server):
    server = fresh_server("--grace", "0.3")
    with grpc.insecure_channel(f"unix:{server.run_dir / 'symphony.sock'}") as channel:
        s = Stream(session_pb2_grpc.SessionServiceStub(channel), {"abi_major": ABI_MAJOR, "abi_minor": ABI_MINOR, "lease_s": 30})
        s.begin().say(1, "sleep", calls.Sleep(600.0))

        assert server.stop() == 0

        with pytest.raises(grpc.RpcError) as ended:
            s.hear()
        assert reason_of(ended.value) == "ENODEV"
        s.close()


def test_a_server_that_stops_waits_for_no_idle_session(fresh_server):
    server = fresh_server("--grace", "600")
    with grpc.insecure_channel(f"unix:{server.run_dir / 'symphony.sock'}") as channel:
        hello = {"abi_major": ABI_MAJOR, "abi_minor": ABI_MINOR, "lease_s": 30}
        s = Stream(session_pb2_grpc.SessionServiceStub(channel), hello).begin()

        assert server.stop() == 0  # which waits a minute, not the whole grace

        with pytest.raises(grpc.RpcError) as ended:
            s.hear()
        assert reason_of(ended.value) == "ENODEV"
        s.close()
