"""HTTP/2 by hand: what no honest library sends. Headers are literals without Huffman codes; answers are read as frames."""

import socket
import struct
import time
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = 8
INITIAL_WINDOW = 4
HUNG_UP = "hung up"


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    body: bytes


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def block(headers: list[tuple[str, str]]) -> bytes:
    """HPACK: literals that are never indexed."""
    return b"".join(b"\x10" + _string(name) + _string(value) for name, value in headers)


def message(data: bytes, *, compressed: bool = False) -> bytes:
    """One gRPC message with its prefix."""
    return bytes((compressed,)) + struct.pack(">I", len(data)) + data


class Http2:
    """One connection."""

    def __init__(self, port: int, *, settings: bytes = b"", hello: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.authority = f"127.0.0.1:{port}"
        self._unread = b""
        self._next_stream = 1
        if hello:
            self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def ask(self, path: str, token: str = "", data: bytes | None = b"", *, end: bool = True, **more: str) -> int:
        """Send the headers of an RPC, and one message unless `data` is None; its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.send(self.opening(stream, path, token, **more))
        if data is not None:
            self.send(frame(DATA, END_STREAM if end else 0, stream, message(data)))
        return stream

    def opening(self, stream: int, path: str, token: str = "", **more: str) -> bytes:
        """The frame of an RPC's headers."""
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": self.authority, "te": "trailers",
                   "content-type": "application/grpc"}  # fmt: skip
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        return frame(HEADERS, END_HEADERS, stream, block(list(headers.items())))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frames(self, wait_s: float) -> list[Frame]:
        """What comes until nothing has come for so long, or the server hung up."""
        found: list[Frame] = []
        while (got := self.one(wait_s)) is not None:
            found.append(got)
        return found

    def one(self, wait_s: float) -> Frame | None:
        """The next frame; None: none came for so long, or never will."""
        while len(self._unread) < 9 or len(self._unread) < 9 + self._length():
            self.socket.settimeout(wait_s)
            try:
                data = self.socket.recv(1 << 16)
            except (TimeoutError, ConnectionError):
                return None
            if not data:
                return None
            self._unread += data
        length = self._length()
        head, body, self._unread = self._unread[:9], self._unread[9 : 9 + length], self._unread[9 + length :]
        return Frame(head[3], head[4], struct.unpack(">I", head[5:9])[0] & 0x7FFFFFFF, body)

    def patient(self, wait_s: float) -> bool:
        """Answer pings for so long, as an honest library does; whether the connection lived."""
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            got = self.one(left_s)
            if got is None:
                return time.monotonic() >= deadline
            if got.kind == GOAWAY:
                return False
            if got.kind == PING and not got.flags & ACK:
                self.send(frame(PING, ACK, 0, got.body))
            if got.kind == SETTINGS and not got.flags & ACK:
                self.send(frame(SETTINGS, ACK, 0))
        return True

    def ends(self, wait_s: float) -> bool:
        """Whether the server hangs up within so long; what it says before is thrown away."""
        return hangs_up(self.socket, wait_s)

    def vanish(self) -> None:
        """As a machine without power: no FIN, and what still comes is answered by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()

    def _length(self) -> int:
        return int.from_bytes(self._unread[:3], "big")


def hangs_up(connection: socket.socket, wait_s: float) -> bool:
    """Whether the other side does within so long."""
    deadline = time.monotonic() + wait_s
    while (left_s := deadline - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            if not connection.recv(1 << 16):
                return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True
    return False


def _string(text: str) -> bytes:
    data = text.encode("latin-1")
    if len(data) < 127:
        return bytes((len(data),)) + data
    out, rest = bytearray((127,)), len(data) - 127
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    return bytes(out) + bytes((rest,)) + data
