"""The matrix on the HTTP door: vLLM's own OpenAI server with the kernel in its engine, all rows against the session's one server.

What only a shorter patience shows (who takes no answer, the room for connections) is tried in tests/web/test_connection.py.
"""

import gzip
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import psutil
import pytest

from tests.conformance.host import eventually
from tests.doors.bystander import bystander
from tests.doors.census import Census, settled, taken
from tests.doors.http2 import HUNG_UP, hangs_up
from tests.doors.matrix import of
from tests.dropin.server import Served
from vllm_symphony.abi.calls import NoArgs
from vllm_symphony.abi.user import own_user
from vllm_symphony.edge.rate import limit_of
from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.proto.v1.file_pb2 import MkdirRequest, RmdirRequest
from vllm_symphony.proto.v1.file_pb2_grpc import FileServiceStub
from vllm_symphony.proto.v1.registry_pb2 import InstallRequest, UninstallRequest
from vllm_symphony.proto.v1.registry_pb2_grpc import RegistryServiceStub
from vllm_symphony.web.body import MAX_BODY_BYTES, PATIENCE_S
from vllm_symphony.web.connection import HEADERS_S, MAX_HEADER_BYTES

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.xdist_group("engine_b"), pytest.mark.timeout(600)]

WAIT_S = 120.0
JSON = {"content-type": "application/json"}
COMPLETION = {"model": "tiny", "prompt": "The sea", "max_tokens": 2}


class Door:
    """The server, with tokens of its own and requests of any bytes."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.port = int(served.http.rpartition(":")[2])
        self._tokens = TokenFile(served.state_dir)
        self._num_tokens = 0

    def token(self, principal: str, *scopes: str, rate: str | None = None, expires_s: float | None = None) -> str:
        self._num_tokens += 1
        name = f"doors-{principal}-{time.time_ns()}-{self._num_tokens}"
        limit = limit_of(rate) if rate else None
        token, text = make(name, principal, now_s=time.time(), scopes=scopes, rate=limit, expires_s=expires_s)
        self._tokens.add(token)
        return text

    def revoke(self, text: str) -> None:
        self._tokens.revoke(self._tokens.by_id()[text.split("_")[1]].name)

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), 20) as line:
            yield line

    def says(self, method: str, path: str, token: str = "", body: bytes = b"", **headers: str) -> tuple[str, Any]:
        """One request on a connection of its own; the words of the matrix, and the body of the answer."""
        with self.connected() as line:
            line.sendall(request(method, path, token, body, **headers))
            return answer(line)

    def completes(self, token: str = "", *, told: bytes | None = None, **more: Any) -> str:
        body = json.dumps(COMPLETION | more).encode() if told is None else told
        return self.says("POST", "/v1/completions", token, body, **JSON)[0]


def request(method: str, path: str, token: str = "", body: bytes = b"", **headers: str) -> bytes:
    given = {"host": "localhost", "content-length": str(len(body))} | ({"authorization": f"Bearer {token}"} if token else {})
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def answer(line: socket.socket) -> tuple[str, Any]:
    """`404 ENOENT`, or the status alone where the error is not one of ours; and the body."""
    line.settimeout(WAIT_S)
    said = b""
    while b"\r\n\r\n" not in said:
        piece = line.recv(1 << 16)
        if not piece:
            return HUNG_UP, None
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    lengths = [int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")]
    while lengths and len(body) < lengths[0]:
        body += line.recv(1 << 16)
    status = head.split()[1].decode()
    try:
        told = json.loads(body)
        code = told["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return status, body
    return (f"{status} {code}" if isinstance(code, str) else status), told


@pytest.fixture(scope="session")
def http(server_b: Served) -> Door:
    return Door(server_b)


@pytest.fixture(autouse=True)
def calm(http: Door) -> Iterator[None]:
    """A bystander is served all the time; when the test is over, nothing is left in any process of the server."""
    process = psutil.Process(http.served.process.pid)

    def kernel() -> dict[str, int]:
        with http.served.client() as client:
            held = json.loads(client.ask("info", NoArgs()).json)["kernel"]
        return {kind: held[kind] for kind in ("programs", "jobs", "files", "fds", "timers", "viewers", "tracers")}

    def look() -> Census:
        return taken(process, kernel)

    def ask() -> None:
        assert http.says("GET", "/health")[0] == "200"

    ask()
    before = look()
    with bystander(ask):
        yield
    assert http.served.process.poll() is None
    settled(before, look, spare=8)


# ---- rights


def test_names_that_are_not_there(http):
    alice = http.token("alice", "run")

    assert http.completes(alice, model="lip:nobody/nothing@1") == of("a name of a program that is not there").http
    assert http.completes(alice, model="nobody") == of("a name of a model that is not there").http
    assert http.completes(alice, symphony={"file": "/nowhere"}) == of("a file that is not there").http
    assert http.says("GET", "/nowhere", alice)[0] == of("a route or a method that is not there").http


def test_a_file_of_somebody_else_and_a_program_without_the_scope(http):
    bob = http.token("bob")
    with grpc.insecure_channel(f"unix:{http.served.socket}") as made:
        asked = InstallRequest(name="doors-idle", version="1", source="async def main():\n    pass\n", mode=0o755)
        installed = RegistryServiceStub(made).Install(asked, timeout=WAIT_S)
        FileServiceStub(made).Mkdir(MkdirRequest(path="/doors-private", mode=0o700), timeout=WAIT_S)
        try:
            found = (
                http.completes(bob, symphony={"file": "/doors-private/x"}),
                http.completes(bob, model=f"lip:{own_user()}/doors-idle"),
            )
        finally:
            FileServiceStub(made).Rmdir(RmdirRequest(path="/doors-private"), timeout=WAIT_S)
            RegistryServiceStub(made).Uninstall(UninstallRequest(program=f"{own_user()}/doors-idle@1"), timeout=WAIT_S)

    assert installed is not None
    assert found == (of("a file of somebody else").http, of("a program without the scope to run one").http)


def test_more_requests_at_once_than_are_allowed(http):
    greedy, limited = http.token("greedy"), of("more requests at once than are allowed").http
    with http.connected() as one, http.connected() as two:
        for line in (one, two):
            line.sendall(request("POST", "/v1/completions", greedy, content_length="100", **JSON))  # its body never comes
        eventually(lambda: http.says("GET", "/v1/models", greedy)[0] == limited, lambda: "greedy is never refused")
    eventually(lambda: http.says("GET", "/v1/models", greedy)[0] == "200", lambda: "greedy is never let in again")


def test_tokens_that_are_none_or_no_more(http):
    good, revoked = http.token("alice"), http.token("alice")
    http.revoke(revoked)
    assert http.completes(model="lip:a/b") == http.completes(symphony={"file": "/x"}) == of("no token").http
    for text in (good[:-1], "sym_" + "0" * 12 + "_" + "0" * 64, revoked, http.token("alice", expires_s=time.time() - 1)):
        assert http.completes(text) == of("a token that is cut off, unknown, revoked or expired").http
        assert http.says("GET", "/v1/models", text)[0] == of("a token that is cut off, unknown, revoked or expired").http
    for headers in ({"x_api_key": good}, {"x_note": f"my {good}"}):
        assert http.says("GET", "/v1/models", **headers)[0] == of("a token twice, or in another header").http
    assert http.completes() == http.completes(good) == "200"


def test_more_requests_than_the_rate_allows(http):
    slow, friend = http.token("alice", rate="1/h:3"), http.token("alice")

    found = [http.says("GET", "/v1/models", slow)[0] for _ in range(6)]

    assert found == ["200"] * 3 + [of("more requests than the rate allows").http] * 3
    assert http.says("GET", "/v1/models", friend)[0] == "200"


def test_a_host_or_an_origin_of_others(http):
    alice = http.token("alice")
    for headers, what in (
        ({"host": "evil.example"}, "a Host of another server"),
        ({"origin": "http://evil.example"}, "an Origin of another site"),
    ):
        body = json.dumps(COMPLETION | {"symphony": {"file": "/nowhere"}}).encode()
        assert http.says("POST", "/v1/completions", alice, body, **JSON, **headers)[0] == of(what).http
        assert http.says("GET", "/symphony/", **headers)[0] == of(what).http


# ---- what cannot be read


def test_bodies_that_cannot_be_read(http):
    alice = http.token("alice", "run")
    deep = b'{"model": "lip:a/b", "prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"

    assert http.completes(alice, told=b'{"model": "tiny", ') == of("a body that cannot be read").http
    assert http.completes(alice, told=b"") == of("a body that cannot be read").http
    assert http.completes(alice, told=b'{"model": "\xff\xfe"}') == of("text that is no UTF-8").http
    assert http.completes(alice, max_tokens=-1) == of("numbers below their range, or NaN").http
    assert http.completes(alice, temperature=float("nan")) == of("numbers below their range, or NaN").http
    assert http.completes(alice, told=deep) == of("JSON ten thousand deep").http
    assert http.completes(alice, told=b'{"model": "no", "model": "tiny", "prompt": "a", "max_tokens": 1}') == of("a key twice").http


def test_bodies_of_another_kind_or_size(http):
    plain = json.dumps(COMPLETION).encode()
    bomb = gzip.compress(bytes(50 << 20))

    assert http.says("POST", "/v1/completions", body=plain, content_type="text/plain")[0] == of("another content type").http
    unpacked = http.says("POST", "/v1/completions", body=bomb, content_encoding="gzip", **JSON)[0]
    assert unpacked == of("a small body that unpacks to a large one").http
    with http.connected() as line:
        line.sendall(request("POST", "/v1/completions", content_length=str(MAX_BODY_BYTES + 1), **JSON))
        assert answer(line)[0] == of("a body that is too large").http
        assert hangs_up(line, 10.0)


def test_bytes_of_no_protocol_headers_that_are_too_large_and_chunks_that_are_none(http):
    chunks = request("POST", "/v1/completions", transfer_encoding="chunked", **JSON).replace(b"content-length: 0\r\n", b"")
    for what, data in (
        ("bytes of no protocol", b"\x16\x03\x01\x02\x00\x01"),
        ("bytes of no protocol", bytes(1000)),
        ("chunks that are none", chunks + b"zz\r\n"),
        ("headers that are too large", b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEADER_BYTES + 300_000)),
    ):
        with http.connected() as line:
            line.sendall(data)
            assert answer(line)[0] == of(what).http
            assert hangs_up(line, 10.0)


# ---- who is slow, or leaves


def test_connections_that_say_nothing_or_never_end_what_they_say(http):
    with http.connected() as silent, http.connected() as head, http.connected() as body:
        head.sendall(b"GET /health HTTP/1.1\r\nHost: lo")
        body.sendall(request("POST", "/v1/completions", content_length="100", **JSON) + b"{")
        patience_s = max(HEADERS_S, PATIENCE_S) + 15.0

        assert hangs_up(silent, patience_s) and of("a connection that says nothing").http == HUNG_UP
        assert hangs_up(head, patience_s) and of("headers that do not end").http == HUNG_UP
        assert answer(body)[0] == of("a body that does not end").http


def streaming(http: Door, line: socket.socket, num_tokens: int = 1500) -> None:
    body = json.dumps(COMPLETION | {"max_tokens": num_tokens, "stream": True, "ignore_eos": True}).encode()
    line.sendall(request("POST", "/v1/completions", body=body, **JSON))


def num_running(http: Door) -> int:
    text = http.says("GET", "/metrics")[1].decode()
    kinds = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    return int(sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(kinds)))


def test_streams_that_nobody_reads_and_requests_that_are_left_end_in_the_engine_too(http):
    lines = [socket.create_connection(("127.0.0.1", http.port), 20) for _ in range(12)]
    for line in lines:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        streaming(http, line)
    assert http.completes() == "200" and of("a stream that nobody reads").http == "waits"
    for i, line in enumerate(lines):
        if i % 2:  # without a FIN
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()

    eventually(lambda: num_running(http) == 0, lambda: f"{num_running(http)} requests of nobody still run")
    assert of("a peer that vanishes").http == of("a request that is cancelled").http == "cancelled"


# ---- many


def test_500_connections_at_once(http):
    alice = http.token("alice")
    idle = [socket.create_connection(("127.0.0.1", http.port), 20) for _ in range(500)]
    assert http.completes(alice) == "200" and of("500 connections that say nothing").http == "served"
    for line in idle:
        line.sendall(request("GET", "/v1/models", alice))
    assert {answer(line)[0] for line in idle} == {of("500 connections with a request each").http}
    for line in idle:
        line.close()


def test_requests_of_one_connection_are_answered_in_turn(http):
    with http.connected() as line:
        line.sendall(request("GET", "/health") * 200)
        said = b""
        while said.count(b"HTTP/1.1 200 OK") < 200:
            piece = line.recv(1 << 16)
            assert piece
            said += piece
    assert of("more requests in one connection than are allowed").http == "one by one"
