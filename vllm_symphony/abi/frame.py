"""Frames: how messages are cut out of a byte stream (abi/frame.py).

    whole    [u32: size            ][body]
    chunk    [u32: size | CHUNK    ][u64: id][piece]      a body larger than `CHUNK_BYTES`, in pieces under its call's id,
             [u32: size | CHUNK | LAST][u64: id][piece]   so that frames of other calls pass in between

Integers are little-endian. A receiver bounds what it holds: a frame by `MAX_FRAME_BYTES`, whole or put together, unfinished ones by
`MAX_UNFINISHED` and `MAX_UNFINISHED_BYTES`; a stream that breaks a bound is useless from there on. Chunks are sent only to a peer
that said the feature `chunks`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from vllm_symphony.abi.calls import CHUNK_BYTES, MAX_FRAME_BYTES
from vllm_symphony.errors import InvalidArgument

MAX_UNFINISHED = 64
MAX_UNFINISHED_BYTES = 2 * MAX_FRAME_BYTES
CHUNK, LAST = 1 << 31, 1 << 30
_SIZE = LAST - 1
_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<IQ")
_ID = struct.Struct("<Q")


class FrameReader:
    """Cuts a byte stream into bodies, and puts chunks together.

    Raises InvalidArgument from `feed` at the first bound that is broken.
    """

    __slots__ = ("_buffer", "_pieces", "_pieces_bytes", "_wanted")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted = 4  # bytes needed before anything can be cut
        self._pieces: dict[int, bytearray] = {}
        self._pieces_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came; give the bodies that are complete now."""
        if not self._buffer and len(data) >= 4:  # the common case: one whole frame, no copy but the slice
            end = 4 + _LENGTH.unpack_from(data)[0]
            if end == len(data) and end <= MAX_FRAME_BYTES:
                return [data[4:]]
        self._buffer += data
        return list(self._cut()) if len(self._buffer) >= self._wanted else []

    @property
    def is_empty(self) -> bool:
        return not self._buffer and not self._pieces

    @property
    def held_bytes(self) -> int:
        """Of frames that are not complete yet."""
        return len(self._buffer) + self._pieces_bytes

    def _cut(self) -> Iterator[bytes]:
        buffer, at = self._buffer, 0
        while True:
            left = len(buffer) - at
            if left < 4:
                self._wanted = 4
                break
            head = _LENGTH.unpack_from(buffer, at)[0]
            size, limit = (head & _SIZE, CHUNK_BYTES + _ID.size) if head & CHUNK else (head, MAX_FRAME_BYTES)
            if size > limit or (head & CHUNK and size < _ID.size):
                del buffer[:]
                raise InvalidArgument(f"frame of {size} bytes, the limit is {limit}", size=size, limit=limit)
            if left < 4 + size:
                self._wanted = 4 + size
                break
            body = bytes(memoryview(buffer)[at + 4 : at + 4 + size])
            at += 4 + size
            if not head & CHUNK:
                yield body
            elif (whole := self._join(body, is_last=bool(head & LAST))) is not None:
                yield whole
        del buffer[:at]

    def _join(self, chunk: bytes, *, is_last: bool) -> bytes | None:
        call_id = _ID.unpack_from(chunk)[0]
        pieces = self._pieces.setdefault(call_id, bytearray())
        pieces += memoryview(chunk)[_ID.size :]
        self._pieces_bytes += len(chunk) - _ID.size
        if len(pieces) > MAX_FRAME_BYTES:
            raise InvalidArgument(f"chunks of {len(pieces)} bytes, the limit is {MAX_FRAME_BYTES}", limit=MAX_FRAME_BYTES)
        if len(self._pieces) > MAX_UNFINISHED or self._pieces_bytes > MAX_UNFINISHED_BYTES:
            raise InvalidArgument(f"{len(self._pieces)} unfinished frames of {self._pieces_bytes} bytes, too many at once")
        if not is_last:
            return None
        self._pieces_bytes -= len(pieces)
        return bytes(self._pieces.pop(call_id))


def frame(body: bytes) -> bytes:
    """Put the length before a body. Raises InvalidArgument over `MAX_FRAME_BYTES`."""
    size = len(body)
    if size > MAX_FRAME_BYTES:
        raise InvalidArgument(f"frame of {size} bytes, the limit is {MAX_FRAME_BYTES}", size=size, limit=MAX_FRAME_BYTES)
    return _LENGTH.pack(size) + body


def pieces(call_id: int, whole: bytes) -> Iterable[bytes]:
    """A whole frame as it travels to a peer that takes chunks: as it is, or in chunks when it is large."""
    return (whole,) if len(whole) <= CHUNK_BYTES else chunks(call_id, whole)


def chunked_bytes(num_bytes: int) -> int:
    """How long a whole frame of that many bytes is in chunk frames."""
    body = num_bytes - _LENGTH.size
    return body + -(-body // CHUNK_BYTES) * _HEAD.size


def chunks(call_id: int, whole: bytes) -> Iterator[bytes]:
    """A whole frame (as `frame` made it) as chunk frames."""
    body = memoryview(whole)[4:]
    for start in range(0, len(body), CHUNK_BYTES):
        piece = body[start : start + CHUNK_BYTES]
        last = LAST if start + CHUNK_BYTES >= len(body) else 0
        yield _HEAD.pack(len(piece) + _ID.size | CHUNK | last, call_id) + piece
