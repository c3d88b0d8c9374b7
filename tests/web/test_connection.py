"""Connections and bodies that try a server's patience, against the server itself with limits of tenths of a second."""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.doors.http2 import hangs_up
from vllm_symphony.web.body import Bodies
from vllm_symphony.web.connection import MAX_HEADER_BYTES, NAME, Connection, Room, common_name

SHORT_S = 0.5
MAX_BODY = 10_000
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"


class Impatient(Connection):
    room = Room(most=8)
    headers_s = write_s = SHORT_S


class App:
    """Echoes, and says more than anybody reads."""

    def __init__(self) -> None:
        self.left = threading.Event()  # who asked for /much is gone

    async def echo(self, request: Request) -> JSONResponse:
        body = await request.body()
        name = request.scope.get("extensions", {}).get(NAME, {}).get("name")
        return JSONResponse({"num_bytes": len(body), "name": name})

    async def much(self, request: Request) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1 << 16)
                    await asyncio.sleep(0)  # as an engine's output: sending to who is gone waits for nothing
            finally:
                self.left.set()

        return StreamingResponse(pieces())

    async def slow(self, request: Request) -> JSONResponse:
        await asyncio.sleep(3 * SHORT_S)
        return JSONResponse({})


@contextmanager
def serving(app: App, **more: object) -> Iterator[int]:
    """A server in a thread; its port."""
    routes = [Route("/echo", app.echo, methods=["GET", "POST"]), Route("/much", app.much), Route("/slow", app.slow)]
    bodies = Bodies(Starlette(routes=routes), max_bytes=MAX_BODY, patience_s=SHORT_S, min_bytes_per_s=1000)
    config = uvicorn.Config(
        bodies, http=Impatient, port=0, log_level="critical", lifespan="off", loop="asyncio", timeout_keep_alive=30, **more
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="impatient")
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def port(app: App) -> Iterator[int]:
    Impatient.room = Room(most=8)
    with serving(app) as port:
        yield port
        deadline = time.monotonic() + 10
        while Impatient.room._of and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Impatient.room._of  # every place was given back


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        yield line


def asked(line: socket.socket, data: bytes) -> tuple[int, dict[str, object]]:
    """Send a request; status and JSON of the answer."""
    line.sendall(data)
    said = b""
    while b"\r\n\r\n" not in said:
        piece = line.recv(1 << 16)
        assert piece, said
        said += piece
    head, _, body = said.partition(b"\r\n\r\n")
    length = next(int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length"))
    while len(body) < length:
        body += line.recv(1 << 16)
    return int(head.split()[1]), json.loads(body) if b"json" in head else {"text": body.decode()}


def post(length: int, body: bytes = b"") -> bytes:
    return b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (length, body)


@pytest.mark.parametrize("said", [b"", b"GET /echo HTTP/1.1\r\nHost", b"GET /ec"])
def test_who_does_not_end_the_headers_is_hung_up_on(port, said):
    with connected(port) as line:
        line.sendall(said)
        assert hangs_up(line, 10.0)


def test_headers_that_come_a_byte_at_a_time_have_the_same_time_in_all(port):
    with connected(port) as line:
        began = time.monotonic()
        try:
            for byte in b"GET /echo HTTP/1.1\r\nX: " + b"x" * 10_000:
                line.sendall(bytes((byte,)))
                time.sleep(0.02)
        except ConnectionError:
            pass
        assert hangs_up(line, 1.0) and time.monotonic() - began < 10 * SHORT_S


def test_a_second_request_of_a_connection_has_its_own_time_and_an_idle_connection_is_left_alone(port):
    with connected(port) as line:
        assert asked(line, GET)[0] == 200
        assert not hangs_up(line, 2 * SHORT_S)
        assert asked(line, post(3, b"abc")) == (200, {"num_bytes": 3, "name": None})
        line.sendall(GET[:10])
        assert hangs_up(line, 10.0)


def test_requests_that_are_sent_before_the_first_is_answered_are_answered_in_turn(port):
    with connected(port) as line:
        line.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + GET + GET[:12])
        said, rest = b"", GET[12:]
        while said.count(b"HTTP/1.1 200 OK") < 3:
            if rest and said.count(b"HTTP/1.1 200 OK") == 2:
                line.sendall(rest)
                rest = b""
            piece = line.recv(1 << 16)
            assert piece, said
            said += piece


@pytest.mark.parametrize("piece", [b"X: " + b"y" * 1000 + b"\r\n", b"y" * 4000])
def test_headers_that_are_too_large_are_400(port, piece):
    with connected(port) as line:
        head = b"GET /echo HTTP/1.1\r\nX: " + piece * (2 * MAX_HEADER_BYTES // len(piece))
        status, said = asked(line, head)
        assert status == 400 and f"larger than {MAX_HEADER_BYTES} bytes" in str(said["text"])
        assert hangs_up(line, 10.0)


def test_a_body_that_is_announced_too_large_is_413_before_it_comes(port):
    with connected(port) as line:
        status, said = asked(line, post(MAX_BODY + 1))
        assert (status, said["error"]["code"]) == (413, "EFBIG")
        assert hangs_up(line, 10.0)


def test_a_body_that_grows_too_large_is_413(port):
    with connected(port) as line:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        status, said = asked(line, head + b"%x\r\n%b\r\n" % (MAX_BODY + 1, b"x" * (MAX_BODY + 1)))
        assert (status, said["error"]["code"]) == (413, "EFBIG")
        assert hangs_up(line, 10.0)


def test_a_body_that_does_not_end_is_408_and_one_that_keeps_pace_is_read(port):
    with connected(port) as line:
        status, said = asked(line, post(100, b"half"))
        assert (status, said["error"]["code"]) == (408, "ETIMEDOUT")
        assert hangs_up(line, 10.0)
    with connected(port) as line:
        line.sendall(post(6000))
        for _ in range(11):
            line.sendall(bytes(500))
            time.sleep(SHORT_S / 5)
        assert asked(line, bytes(500)) == (200, {"num_bytes": 6000, "name": None})


def test_who_takes_no_answer_is_hung_up_on_and_the_app_is_told(app, port):
    with connected(port) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        assert app.left.wait(20)


def test_one_address_has_half_of_the_places_and_gets_them_back(port):
    lines = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(4)]
    for line in lines:
        assert asked(line, GET)[0] == 200
    with connected(port) as more:
        assert hangs_up(more, 10.0)
    lines.pop().close()
    deadline = time.monotonic() + 10
    while Impatient.room._of["127.0.0.1"] > 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    with connected(port) as again:
        assert asked(again, GET)[0] == 200
    for line in lines:
        line.close()


def test_chunks_that_are_none_and_bytes_of_no_protocol_are_400(port):
    for data in (
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x00\x05",
        b"\0" * 100,
    ):
        with connected(port) as line:
            assert asked(line, data)[0] == 400
            assert hangs_up(line, 10.0)


def test_the_certificate_of_a_client_goes_along_by_its_common_name(app, certificates: Path):
    files = {"ssl_certfile": str(certificates / "server.crt"), "ssl_keyfile": str(certificates / "server.key"),
             "ssl_ca_certs": str(certificates / "ca.crt"), "ssl_cert_reqs": ssl.CERT_REQUIRED}  # fmt: skip
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    Impatient.room = Room(most=8)
    with serving(app, **files) as port:
        with (
            connected(port) as line,
            pytest.raises((OSError, AssertionError)),
            context.wrap_socket(line, server_hostname="localhost") as nobody,
        ):
            asked(nobody, GET)
        context.load_cert_chain(certificates / "alice.crt", certificates / "alice.key")
        with connected(port) as line, context.wrap_socket(line, server_hostname="localhost") as alice:
            assert asked(alice, GET) == (200, {"num_bytes": 0, "name": "alice"})


def test_a_certificate_with_no_name_or_two_names_nobody():
    assert common_name(None) is common_name({}) is None
    assert common_name({"subject": ((("commonName", "a"),), (("commonName", "b"),))}) is None
