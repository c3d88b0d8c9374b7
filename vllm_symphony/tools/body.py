"""The body of a response, as much of it as a result may have (tools/body.py).

Nothing is read beyond the limit, neither from the wire nor out of a decompressor: a gigabyte costs what the limit costs, and so
does a kilobyte that unpacks to one. One content encoding at most: two of them are a bomb's way to be small.
"""

from __future__ import annotations

import zlib

import httpx2

from vllm_symphony.errors import BrokenPipe

ACCEPTED = "gzip, deflate"
_WIRE_SLACK = 64 << 10  # what an encoding may add to incompressible data


async def read(response: httpx2.Response, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes, decoded, and whether there were more. Raises BrokenPipe for an encoding that nobody asked for."""
    unpack = _decoder(response.headers.get("content-encoding", ""))
    body, on_wire = bytearray(), 0
    async for piece in response.aiter_raw():
        on_wire += len(piece)
        body += piece[: limit + 1 - len(body)] if unpack is None else unpack(piece, limit + 1 - len(body))
        if len(body) > limit:
            return bytes(body[:limit]), True
        if on_wire > limit + _WIRE_SLACK:  # an encoding that takes much and gives nothing
            return bytes(body), True
    return bytes(body), False


class _Decoder:
    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._inner = zlib.decompressobj(31 if kind == "gzip" else 15)
        self._has_begun = False

    def __call__(self, data: bytes, room: int) -> bytes:
        try:
            out = self._inner.decompress(data, room)
        except zlib.error:
            if self._has_begun or self._kind == "gzip":
                raise BrokenPipe(f"the body is no {self._kind}") from None
            self._inner = zlib.decompressobj(-15)  # "deflate" without its header, as some servers send it
            return self(data, room)
        finally:
            self._has_begun = True
        return out


def _decoder(encoding: str) -> _Decoder | None:
    names = [name.strip().lower().removeprefix("x-") for name in encoding.split(",") if name.strip()]
    if not names or names == ["identity"]:
        return None
    if names not in (["gzip"], ["deflate"]):
        raise BrokenPipe(f"the body has the encoding {encoding[:100]!r}, we asked for {ACCEPTED}")
    return _Decoder(names[0])
