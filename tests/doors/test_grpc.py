"""The matrix on the gRPC door: each row as it is documented, a bystander served meanwhile, and nothing left behind."""

import gzip
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import grpc
import pytest

from tests.conformance.host import eventually
from tests.doors.conftest import Grpc
from tests.doors.http2 import (
    CANCEL,
    DATA,
    GOAWAY,
    HEADERS,
    HUNG_UP,
    INITIAL_WINDOW,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Http2,
    block,
    frame,
    hangs_up,
    message,
)
from tests.doors.matrix import of
from tests.wire.test_fuzz_grpc import reason_of
from vllm_symphony.proto.v1 import call_pb2, file_pb2, process_pb2, session_pb2, session_pb2_grpc, system_pb2
from vllm_symphony.proto.v1.file_pb2_grpc import FileServiceStub
from vllm_symphony.proto.v1.process_pb2_grpc import ProcessServiceStub
from vllm_symphony.proto.v1.session_pb2_grpc import SessionServiceStub
from vllm_symphony.proto.v1.system_pb2_grpc import SystemServiceStub

pytestmark = [pytest.mark.usefixtures("calm"), pytest.mark.xdist_group("doors")]

PING_PATH = "/symphony.v1.SystemService/Ping"
WAIT_S = 30.0
SPIN = "async def main():\n    while True:\n        print('x' * 10_000)\n"


@contextmanager
def channel(door: Grpc) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{door.port}", options=(("grpc.max_send_message_length", -1),
                               ("grpc.use_local_subchannel_pool", 1))) as made:  # fmt: skip
        yield made


def shown(*tokens: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}") for token in tokens]


def ended(call: Callable[[], object]) -> str:
    """How an RPC ends, in the words of the matrix."""
    try:
        call()
    except grpc.RpcError as e:
        code, reason, details = e.code(), reason_of(e), str(e.details())
    else:
        return "OK"
    assert "internal error" not in details
    return f"{code.name} {reason or ''}".strip()


def until(look: Callable[[], object], wanted: object) -> None:
    """It looks so in the end."""
    eventually(lambda: look() == wanted, lambda: f"{look()!r} is not {wanted!r}")


def ping(made: grpc.Channel, *headers: tuple[str, str]) -> Callable[[], object]:
    return lambda: SystemServiceStub(made).Ping(system_pb2.PingRequest(), timeout=WAIT_S, metadata=headers)


# ---- rights


def test_names_that_are_not_there(door):
    alice = shown(door.token("alice", "run"))
    with channel(door) as made:
        asked = process_pb2.SpawnRequest(program=process_pb2.Program(program="nobody/nothing@1"))
        spawn = ended(lambda: ProcessServiceStub(made).Spawn(asked, timeout=WAIT_S, metadata=alice))
        stat = ended(lambda: FileServiceStub(made).Stat(file_pb2.StatRequest(path="/nowhere"), timeout=WAIT_S, metadata=alice))

    assert spawn == of("a name of a program that is not there").grpc
    assert stat == of("a file that is not there").grpc


def test_a_file_of_somebody_else_and_a_program_without_the_scope(door):
    alice, bob = shown(door.token("alice")), shown(door.token("bob"))
    with channel(door) as made:
        files, path = FileServiceStub(made), "/home-of-alice"
        files.Mkdir(file_pb2.MkdirRequest(path=path, mode=0o700), timeout=WAIT_S, metadata=alice)
        listed = ended(lambda: files.ListDir(file_pb2.ListDirRequest(path=path), timeout=WAIT_S, metadata=bob))
        removed = ended(lambda: files.Rmdir(file_pb2.RmdirRequest(path=f"{path}/x"), timeout=WAIT_S, metadata=bob))
        asked = process_pb2.SpawnRequest(program=process_pb2.Program(source="async def main():\n    pass"))
        spawned = ended(lambda: ProcessServiceStub(made).Spawn(asked, timeout=WAIT_S, metadata=bob))
        files.Rmdir(file_pb2.RmdirRequest(path=path), timeout=WAIT_S, metadata=alice)

    assert listed == removed == of("a file of somebody else").grpc
    assert spawned == of("a program without the scope to run one").grpc


def test_tokens_that_are_none_or_no_more(door):
    good, revoked = door.token("alice"), door.token("alice")
    door.revoke(revoked)
    bad = (good[:-1], "sym_" + "0" * 12 + "_" + "0" * 64, revoked, door.token("alice", expires_s=time.time() - 1), "x", "")
    with channel(door) as made:
        assert ended(ping(made)) == of("no token").grpc
        for text in bad:
            assert ended(ping(made, *shown(text))) == of("a token that is cut off, unknown, revoked or expired").grpc
        for headers in (shown(good, good), [("x-api-key", good)], [("x-note", f"my {good}"), *shown(good)]):
            assert ended(ping(made, *headers)) == of("a token twice, or in another header").grpc
        assert ended(ping(made, *shown(good))) == "OK"


# ---- how fast, how much


def test_more_requests_than_the_rate_allows_are_told_when_to_come_again(door):
    hasty, slow, friend = door.token("hasty"), door.token("alice", rate="1/h:2"), door.token("alice")
    with channel(door) as made:
        answers = [Counter(ended(ping(made, *shown(text))) for _ in range(12)) for text in (hasty, slow, friend)]
        with pytest.raises(grpc.RpcError) as refused:
            ping(made, *shown(slow))()

    limited = of("more requests than the rate allows").grpc
    assert answers[0][limited] >= 1 and answers[0]["OK"] >= 4
    assert answers[1] == {"OK": 2, limited: 10}
    assert answers[2] == {"OK": 12}
    assert "asks faster than 0.000277778 requests a second: come again in" in refused.value.details()


def test_more_requests_at_once_than_are_allowed(door):
    greedy = shown(door.token("greedy"))
    with channel(door) as made, ExitStack() as held:
        watching: list[grpc.Call] = []

        def asked() -> str:
            while sum(call.is_active() for call in watching) < 2:  # one may have come beside a ping, and been refused itself
                watching.append(FileServiceStub(made).Watch(file_pb2.WatchRequest(path="/"), metadata=greedy))
                held.callback(watching[-1].cancel)
            return ended(ping(made, *greedy))

        until(asked, of("more requests at once than are allowed").grpc)
        held.close()
        until(lambda: ended(ping(made, *greedy)), "OK")


# ---- what cannot be read


def test_bodies_that_cannot_be_read(door):
    alice = shown(door.token("alice", "run"))
    with channel(door) as made:

        def raw(path: str, data: bytes) -> str:
            return ended(lambda: made.unary_unary(path)(data, timeout=WAIT_S, metadata=alice))

        assert raw(PING_PATH, os.urandom(64) + b"\xff") == of("a body that cannot be read").grpc
        assert raw("/symphony.v1.FileService/Stat", b"\x0a\x02\xff\xfe") == of("text that is no UTF-8").grpc
        assert raw(PING_PATH, bytes(65 << 20)) == of("a body that is too large").grpc
        assert raw("/symphony.v1.FileService/Nothing", b"") == of("a route or a method that is not there").grpc


def test_numbers_out_of_range_and_json_that_is_deep_or_says_things_twice(door):
    alice = shown(door.token("alice", "run"))
    deep, twice = '{"a":' * 10_000 + "1" + "}" * 10_000, '{"n": 1, "n": 2}'
    with channel(door) as made:

        def spawn(args: str) -> str:
            program = process_pb2.Program(source="async def main(n=1):\n    pass", args=args)
            return ended(lambda: ProcessServiceStub(made).Spawn(process_pb2.SpawnRequest(program=program), timeout=WAIT_S,
                                                                metadata=alice))  # fmt: skip

        for lease_s in (-1.0, 0.0, float("nan"), float("-inf")):
            asked = session_pb2.CreateSessionRequest(lease_s=lease_s)
            found = ended(lambda asked=asked: SessionServiceStub(made).CreateSession(asked, timeout=WAIT_S, metadata=alice))
            assert found == of("numbers below their range, or NaN").grpc
        assert spawn(deep) == of("JSON ten thousand deep").grpc
        assert spawn(twice) == of("a key twice").grpc


def test_a_small_body_that_unpacks_to_a_large_one(door):
    alice = shown(door.token("alice"))
    options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"127.0.0.1:{door.port}", options=options, compression=grpc.Compression.Gzip) as made:
        found = ended(lambda: made.unary_unary(PING_PATH)(bytes(200 << 20), timeout=WAIT_S, metadata=alice))

    assert len(gzip.compress(bytes(1 << 20))) < 2048
    assert found == of("a small body that unpacks to a large one").grpc


def test_another_content_type_and_headers_that_are_too_large(door):
    alice, line = door.token("alice"), Http2(door.port)
    line.ask(PING_PATH, alice, **{"content-type": "application/json"})
    assert DATA in [f.kind for f in line.frames(1.0)] and of("another content type").grpc == "OK"
    with suppress(ConnectionError):
        line.ask(PING_PATH, alice, note="x" * 60_000)
    assert line.ends(5.0) and of("headers that are too large").grpc == HUNG_UP
    line.close()


# ---- who is slow


def connection(door: Grpc) -> socket.socket:
    return socket.create_connection(("127.0.0.1", door.port), 20)


def test_bytes_of_no_protocol(door):
    for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(4096), b"\x16\x03\x01\x02\x00\x01", bytes(100_000)):
        with connection(door) as line:
            line.sendall(data)
            assert hangs_up(line, 10.0) and of("bytes of no protocol").grpc == HUNG_UP


def test_connections_that_say_nothing_or_never_end_what_they_say(door):
    alice = door.token("alice")
    silent, half = connection(door), connection(door)
    half.sendall(PREFACE[:9])
    headers, body = Http2(door.port), Http2(door.port)
    headers.send(frame(HEADERS, 0, 1, block([(":method", "POST")])))
    stream = body.ask(PING_PATH, alice, None)
    body.send(frame(DATA, 0, stream, message(b"half")[:6]))

    assert hangs_up(silent, 10.0) and hangs_up(half, 10.0) and of("a connection that says nothing").grpc == HUNG_UP
    assert headers.ends(10.0) and of("headers that do not end").grpc == HUNG_UP
    assert body.ends(10.0) and of("a body that does not end").grpc == HUNG_UP
    for line in (silent, half, headers, body):
        line.close()


def test_a_body_that_does_not_end_of_who_answers_pings_holds_up_nobody_else(door):
    line = Http2(door.port)
    line.send(frame(DATA, 0, line.ask(PING_PATH, door.token("alice"), None), message(b"half")[:6]))

    assert line.patient(9.0) and of("a body that does not end, of who answers pings").grpc == "waits"
    line.vanish()


def test_a_stream_that_nobody_reads_holds_up_nobody_else(door):
    run = door.token("carol", "run")
    line = Http2(door.port, settings=struct.pack(">HI", INITIAL_WINDOW, 0))
    asked = process_pb2.RunRequest(program=process_pb2.Program(source=SPIN))
    line.send(line.opening(1, "/symphony.v1.ProcessService/Run", run))
    line.send(frame(DATA, 1, 1, message(asked.SerializeToString())))
    with channel(door) as made:
        stub, mine = ProcessServiceStub(made), shown(run)

        def running() -> list[int]:
            found = stub.ListProcesses(process_pb2.ListProcessesRequest(), timeout=WAIT_S, metadata=mine).processes
            return [p.pid for p in found if not p.HasField("exit")]

        until(lambda: len(running()), 1)
        assert not any(f.kind == DATA for f in line.frames(0.5)) and of("a stream that nobody reads").grpc == "waits"
        line.vanish()  # its program ends with its caller
        until(running, [])


def test_a_peer_that_vanishes_in_the_middle_of_a_call(door):
    alice = door.token("alice")
    for _ in range(20):
        line = Http2(door.port)
        line.ask("/symphony.v1.FileService/Watch", alice, file_pb2.WatchRequest(path="/").SerializeToString())
        line.one(2.0)
        line.vanish()
    assert of("a peer that vanishes").grpc == "cancelled"  # the census of `calm` says that nothing of them is left


def test_requests_that_are_cancelled(door):
    alice = shown(door.token("alice"))
    with channel(door) as made:
        stub: session_pb2_grpc.SessionServiceStub = SessionServiceStub(made)
        session = stub.CreateSession(session_pb2.CreateSessionRequest(lease_s=30), timeout=WAIT_S, metadata=alice)
        asked = session_pb2.CallRequest(pid=session.pid, resume=session.resume)
        asked.call.CopyFrom(call_pb2.Call(sleep=call_pb2.Sleep(seconds=600)))
        calls = [stub.Call.future(asked, metadata=alice) for _ in range(100)]
        time.sleep(0.2)
        for call in calls:
            call.cancel()

        assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
        assert of("a request that is cancelled").grpc == "cancelled"
        stub.EndSession(session_pb2.EndSessionRequest(pid=session.pid, resume=session.resume), timeout=WAIT_S, metadata=alice)


# ---- many


def test_500_connections_at_once(door):
    alice = door.token("alice")
    idle = [connection(door) for _ in range(500)]
    with channel(door) as made:
        assert ended(ping(made, *shown(alice))) == "OK" and of("500 connections that say nothing").grpc == "served"
    for line in idle:
        line.close()
    until(lambda: door.num_connections() < 50, True)  # they count until the server has seen that they are gone

    asking = [Http2(door.port) for _ in range(500)]
    for line in asking:
        line.ask(PING_PATH, alice)
    for line in asking:
        while (got := line.one(WAIT_S)) is not None and got.kind != DATA:
            assert got.kind not in (RST_STREAM, GOAWAY)
        assert got is not None and of("500 connections with a request each").grpc == "OK"
        line.close()


def test_more_connections_than_there_is_room_for_are_hung_up_on_and_the_socket_has_room_of_its_own(door):
    alice = shown(door.token("alice"))
    lines = [connection(door) for _ in range(650)]
    ended_at_once = 0
    for line in lines[-40:]:
        ended_at_once += hangs_up(line, 1.0)
    for line in lines:
        line.close()

    assert ended_at_once >= 30 and of("more connections than there is room for").grpc == HUNG_UP
    with channel(door) as made:
        until(lambda: ended(ping(made, *alice)), "OK")


def test_more_requests_in_one_connection_than_are_allowed(door):
    alice, line = door.token("alice"), Http2(door.port)
    streams = range(1, 6000, 2)
    line.send(b"".join(line.opening(s, PING_PATH, alice) + frame(DATA, 1, s, message(b"")) for s in streams))
    found = Counter(f.kind for f in line.frames(3.0))
    line.close()

    assert found[DATA] > 100 and found[DATA] + found[RST_STREAM] == len(streams)
    assert of("more requests in one connection than are allowed").grpc == "refused"


def test_floods_of_resets_pings_and_settings(door):
    alice, opener = door.token("alice"), Http2(door.port)
    cancel = struct.pack(">I", CANCEL)
    resets = (opener.opening(s, PING_PATH, alice) + frame(RST_STREAM, 0, s, cancel) for s in range(1, 8001, 2))
    opener.close()
    for what, data in (
        ("requests that are reset at once", b"".join(resets)),
        ("a flood of pings or settings", b"".join(frame(PING, 0, 0, struct.pack(">Q", i)) for i in range(20_000))),
        ("a flood of pings or settings", frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW, 65_535)) * 20_000),
    ):
        flooded = Http2(door.port)
        flooded.send(data)
        flooded.frames(0.5)
        flooded.close()
        with channel(door) as made:
            assert ended(ping(made, *shown(alice))) == "OK" and of(what).grpc == "served"
