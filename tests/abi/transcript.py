"""Transcripts of clients, frame by frame (tests/abi/golden/*.jsonl): recorded once, replayed against the server of today.

    {"note": ...}                     what follows
    {"on": 1, "send": BYTES}          a client sends; connection 1 is made at its first line
    {"on": 1, "get": BYTES}           the body of a frame that the server sent ("chunked": it came so; "varying": names of fields)
    {"on": 1, "cut": true}            the client closes          {"on": 1, "closed": true}    the server did

BYTES are hex, long ones `zlib:` and base64. What the server sends is compared by the rules of a client: what the recorded answer
says must be said again; what was added since is not looked at. What differs from run to run (times, a secret, words for people) is
compared by its type only (`VARYING`, and a line's own), floats of the model roughly, the parts of a stream together. A session's
secret stands in the file as `SECRET`.
"""

from __future__ import annotations

import base64
import json
import math
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

WAIT_S = 60.0
SECRET = "-the-sessions-own-resume-secret-"  # as long as one
CHUNK, LAST = 1 << 31, 1 << 30
VARYING = frozenset({
    "abi_minor", "features", "resume", "message", "detail", "args", "seconds", "capabilities", "unsupported", "seq",
    "ino", "size", "created_ns", "modified_ns", "expires_ns", "started_ns", "ended_ns", "since_ns", "t_ns", "t_start_ns",
    "t_end_ns", "device_s", "cpu_s", "page_s", "tool_s", "memory_bytes", "fingerprint", "num_calls", "num_steps", "step_first",
    "step_last",
})  # fmt: skip
FLOATS = frozenset({"logprobs", "logits"})  # packed float32
TOLERANCE = 1e-3

Line = dict[str, Any]


class Wire:
    """One connection of a client."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(path)
        self._pieces: dict[int, bytes] = {}

    def body(self) -> tuple[bytes, bool] | None:
        """The next frame's body and whether it came in chunks; None at the end."""
        while (head := self._exactly(4)) is not None:
            (size,) = struct.unpack("<I", head)
            data = self._exactly(size & (LAST - 1)) or b""
            if not size & CHUNK:
                return data, False
            (call_id,) = struct.unpack_from("<Q", data)
            self._pieces[call_id] = self._pieces.get(call_id, b"") + data[8:]
            if size & LAST:
                return self._pieces.pop(call_id), True
        return None

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionError:
                return None
            if not more:
                return None
            data += more
        return data


def chunked(frame: bytes, piece: int) -> bytes:
    """A frame, sent in chunks of so many bytes."""
    body = frame[4:]
    call_id = struct.pack("<Q", msgspec.msgpack.decode(body)["id"])
    pieces = [body[i : i + piece] for i in range(0, len(body), piece)]
    marks = [CHUNK] * (len(pieces) - 1) + [CHUNK | LAST]
    return b"".join(struct.pack("<I", len(p) + 8 | mark) + call_id + p for p, mark in zip(pieces, marks, strict=True))


def text_of(data: bytes) -> str:
    return data.hex() if len(data) < 2048 else "zlib:" + base64.b64encode(zlib.compress(data, 9)).decode()


def bytes_of(text: str) -> bytes:
    kind, _, packed = text.rpartition(":")
    return zlib.decompress(base64.b64decode(packed)) if kind else bytes.fromhex(text)


def read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- comparing


def replay(lines: list[Line], path: str) -> Iterator[str]:
    """Say what the transcript's client said; give each difference of what comes back."""
    wires: dict[int, Wire] = {}
    secret, note = SECRET, ""
    try:
        for number, line in enumerate(lines):
            note = line.get("note", note)
            on = line.get("on")
            if on is not None and on not in wires:
                wires[on] = Wire(path)
            if "send" in line:
                wires[on].socket.sendall(bytes_of(line["send"]).replace(SECRET.encode(), secret.encode()))
            elif "get" in line and not _is_get(lines[number - 1], on):
                recorded = _run(lines, number, on)
                answers = list(_answers(wires[on], _num_ends(recorded)))
                secret = next((r for a in answers if isinstance(ok := a.get("ok"), dict) and (r := ok.get("resume"))), secret)
                yield from (f"{note}: {what}" for what in _compare(recorded, answers))
            elif "cut" in line:
                wires[on].socket.close()
            elif "closed" in line and (more := wires[on].body()) is not None:
                yield f"{note}: the connection is open, and has {more[0]!r}"
    finally:
        for wire in wires.values():
            wire.socket.close()


def _is_get(line: Line, on: Any) -> bool:
    return "get" in line and line["on"] == on


def _run(lines: list[Line], start: int, on: Any) -> list[Line]:
    """The answers that were recorded one after the other from here on."""
    run: list[Line] = []
    for line in lines[start:]:
        if not _is_get(line, on):
            break
        run.append(decoded(bytes_of(line["get"])) | {key: line[key] for key in ("chunked", "varying") if key in line})
    return run


def decoded(body: bytes) -> Line:
    answer: Line = msgspec.msgpack.decode(body)
    return answer


def is_end(answer: Line) -> bool:
    return "part" not in answer


def _num_ends(answers: list[Line]) -> int:
    return sum(map(is_end, answers))


def _answers(wire: Wire, num_ends: int) -> Iterator[Line]:
    while num_ends:
        got = wire.body()
        if got is None:
            return
        answer = decoded(got[0]) | ({"chunked": True} if got[1] else {})
        num_ends -= is_end(answer)
        yield answer


def _compare(recorded: list[Line], answers: list[Line]) -> Iterator[str]:
    for call_id in dict.fromkeys(a.get("id", 0) for a in recorded):
        then, now = (_together([a for a in some if a.get("id", 0) == call_id]) for some in (recorded, answers))
        varying = VARYING | set(then.pop("varying", ()))
        for key, value in then.items():
            if key in ("ok", "err", "part"):
                yield from differences(value, now.get(key), f"{call_id}.{key}", varying)
            elif now.get(key) != value:  # the frame's own fields are compared as they are
                yield f"{call_id}.{key} is {now.get(key)!r}, was {value!r}"
        if unforeseen := {"ok", "err", "part"} & now.keys() - then.keys():
            yield f"{call_id}: nobody expected {sorted(unforeseen)}: {now}"


def _together(answers: list[Line]) -> Line:
    """All frames of one call as one: the parts of its stream joined, whichever way they were cut."""
    whole: Line = {}
    for answer in answers:
        for key, value in answer.items():
            if key == "part" and key in whole:
                joined = {k: whole[key][k] + v if isinstance(v, bytes | str | list) else v for k, v in value.items()}
                whole[key] = {**whole[key], **joined}
            else:
                whole[key] = value
    return whole


def differences(then: Any, now: Any, where: str, varying: frozenset[str] = VARYING) -> Iterator[str]:
    """Where `now` does not say what `then` said."""
    name = where.rpartition(".")[2]
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            if key not in now:
                yield f"{where}.{key} is gone"
            else:
                yield from differences(value, now[key], f"{where}.{key}", varying)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now) and name not in varying:
        for i, (a, b) in enumerate(zip(then, now, strict=True)):
            yield from differences(a, b, f"{where}[{i}]", varying)
    elif name in varying:
        if type(then) is not type(now) and None not in (then, now):
            yield f"{where} is {now!r}, was a {type(then).__name__}"
    elif name in FLOATS and isinstance(now, bytes) and len(then) == len(now):
        pairs = zip(memoryview(then).cast("f"), memoryview(now).cast("f"), strict=True)
        if not all(_close(a, b) for a, b in pairs):
            yield f"{where}: other floats"
    elif type(then) is not type(now) or not (then == now or (isinstance(then, float) and _close(then, now))):
        yield f"{where} is {now!r}, was {then!r}"


def _close(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
