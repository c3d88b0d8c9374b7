"""Attempts on the link to the kernel: bytes written beside the library, on descriptor 3."""

import array
import asyncio
import os
import pickle
import socket
import struct
import sys
import time

import msgspec

from vllm_symphony import lip

sys.modules["vllm_symphony.runtime.advice"]._is_given = False  # it says early and in words what the layers below it hold


LINK = 3
MAX_FRAME_BYTES = 16 << 20


def framed(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def call(call_id, op, args=None, **beside) -> bytes:
    return framed(msgspec.msgpack.encode({"id": call_id, "op": op, "a": args or {}, **beside}))


def write(data: bytes) -> None:
    """All of it, waiting while the kernel does not read."""
    os.set_blocking(LINK, True)
    view = memoryview(data)
    while view:
        view = view[os.write(LINK, view) :]


def answers(seconds: float = 2.0) -> list:
    """What comes back meanwhile, until the link ends or nothing comes."""
    sock = socket.socket(fileno=os.dup(LINK))
    sock.settimeout(seconds)
    held, found = b"", []
    try:
        while data := sock.recv(1 << 18):
            held += data
            while len(held) >= 4 and len(held) >= 4 + struct.unpack_from("<I", held)[0]:
                size = 4 + struct.unpack_from("<I", held)[0]
                found.append(msgspec.msgpack.decode(held[4:size]))
                held = held[size:]
    except (OSError, TimeoutError):
        pass
    return found


def reasons(found: list) -> list:
    return [a["err"]["reason"] if a.get("err") else "ok" for a in found if "id" in a]


async def giant_frame():
    """A frame that says it has 1 GiB."""
    write(struct.pack("<I", 1 << 29) + b"x" * 100_000)
    time.sleep(30)


async def truncated_frame():
    """Half a frame, and then the end of the link."""
    write(struct.pack("<I", 1000) + b"half")
    os.close(LINK)
    time.sleep(30)


async def garbage():
    """No msgpack at all."""
    write(framed(os.urandom(1000)))
    time.sleep(30)


async def unfinished_chunks():
    """Chunks of calls that never end."""
    for i in range(200):
        write(struct.pack("<IQ", (8 + 60_000) | 1 << 31, 10_000 + i) + bytes(60_000))
    time.sleep(30)


async def nested_frame():
    """An array of arrays of arrays."""
    write(framed(b"\x84\xa2id\x01\xa2op\xa4ping\xa3tid\x00\xa1a" + b"\x91" * 60_000 + b"\xc0"))
    return reasons(answers())


async def empty_maps():
    """A million empty maps: cheap to send, dear to build."""
    bomb = b"\xdd" + struct.pack(">I", 1_000_000) + b"\x80" * 1_000_000
    began = time.monotonic()
    write(framed(b"\x83\xa2id\x01\xa2op\xa4emit\xa1a\x81\xa4text" + bomb))
    return [reasons(answers()), time.monotonic() - began < 20]


async def forged_ids(other: int):
    """Calls under the ids and threads of others, and answers to nobody's call."""
    write(call(2**53 - 1, "ping", tid=2**40))
    write(call(0, "cancel", {"target": 2**50}))
    write(call(77, "cancel", {"target": 77}))
    write(call(78, "ping", cred={"principal": "root", "groups": [], "scopes": ["admin"]}))
    write(call(79, "ping", session=other, resume="x"))
    write(call(80, "kill", {"pid": other, "signal": "KILL"}))
    return reasons(answers())


async def negative_id():
    """An id that is none."""
    write(framed(msgspec.msgpack.encode({"id": -1, "op": "ping"})))
    time.sleep(30)


async def duplicate_ids():
    """Several calls under one id."""
    write(b"".join(call(5, "sleep", {"seconds": 0.2}) for _ in range(5)))
    return reasons(answers())


async def numbers():
    """What is no number, and numbers larger than any."""
    async with lip.open(tokens=[1, 2, 3]) as file:
        found = []
        for op, args in (
            ("sleep", {"seconds": float("nan")}), ("sleep", {"seconds": float("inf")}), ("sleep", {"seconds": -1.0}),
            ("truncate", {"fd": file.fd, "length": -1}), ("truncate", {"fd": file.fd, "length": 2**63}),
            ("close", {"fd": 2**62}), ("close", {"fd": -1}), ("wait", {"pid": 2**64 - 1}), ("open", {"tokens": [2**40]}),
            ("forward", {"fd": file.fd, "tokens": [-5]}), ("append", {"fd": file.fd, "tokens": [2**31]}),
        ):  # fmt: skip
            write(call(1000 + len(found), op, args))
            found.append(op)
        got = reasons(answers())
        os.set_blocking(LINK, False)
        return got
    return []


async def pass_descriptors():
    """Descriptors sent along with calls, hundreds of them."""
    sock = socket.socket(fileno=os.dup(LINK))
    sock.setblocking(True)
    fds = array.array("i", [0] * 16)
    for i in range(100):
        try:
            sock.sendmsg([call(100 + i, "ping")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError as e:
            return [i, e.strerror]
    return sorted(set(reasons(answers())))


async def flood(reads: bool, seconds: float = 3.0):
    """Calls as fast as they go, with or without reading the answers."""
    end, num = time.monotonic() + seconds, 0
    burst = b"".join(call(1000 + i, "ping") for i in range(200))
    os.set_blocking(LINK, False)
    while time.monotonic() < end:
        try:
            num += os.write(LINK, burst) > 0
        except BlockingIOError:
            time.sleep(0.001)
        except OSError as e:
            return type(e).__name__
        if reads:
            try:
                os.read(LINK, 1 << 18)
            except BlockingIOError:
                pass
    os._exit(0)


async def half_close():
    """No more calls, but answers are still read."""
    file = await lip.open(tokens=[1, 2, 3])
    waiting = asyncio.ensure_future(file.forward([4]))
    await asyncio.sleep(0)
    socket.socket(fileno=os.dup(LINK)).shutdown(socket.SHUT_WR)
    try:
        await waiting
    except lip.SymphonyError:
        pass
    time.sleep(30)


class Payload:
    def __reduce__(self):
        return (os.system, ("touch /tmp/symphony-pickle-was-here",))


async def pickle_payload():
    """A pickle wherever bytes or a text can be given."""
    data = pickle.dumps(Payload())
    write(framed(data))
    time.sleep(30)


async def pickle_in_values():
    """The same as values of calls."""
    text = pickle.dumps(Payload(), protocol=0).decode("latin-1")
    print(text)
    lip.emit(text)
    try:
        await lip.spawn("async def main(x): return x", x=text)
    except lip.SymphonyError:
        pass
    return text[:5]


async def unknown_calls():
    """Calls that do not exist, that are not for programs, and names that are no names."""
    for i, op in enumerate(("reboot", "__import__", "info", "", "x" * 64, "exit\0", "spawn.__class__")):
        write(call(300 + i, op))
    return sorted(set(reasons(answers())))
