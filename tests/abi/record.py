"""Record a transcript: `python -m tests.abi.record tests/abi/golden/1.5.jsonl`, with the codec and the server of this checkout.

A version's transcript is recorded once, at the commit that made the version, and never again: what it says is what was promised to
its clients. 1.0 was recorded at 29837a1, with `plain` alone; 1.1 has no `keeping`, 1.2 no `talking`, and lost one call
whose answer was a race; 1.3 has no `seeing`, 1.4 no `choosing`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.abi import conversation
from tests.abi.choosing import choosing
from tests.abi.seeing import seeing
from tests.abi.talking import talking
from tests.abi.transcript import SECRET, Line, Wire, chunked, decoded, is_end, text_of
from vllm_symphony.abi.codec import call_frame
from vllm_symphony.engine.reactor import Reactor
from vllm_symphony.engine.sim import SimDevice
from vllm_symphony.engine.storage import Storage, StorageCore
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.store.state import StateDirectory

SEED = 7
PARTS = {
    "plain": conversation.plain, "keeping": conversation.keeping, "talking": talking, "seeing": seeing,
    "choosing": choosing, "session": conversation.session,
}  # fmt: skip


@contextmanager
def server(path: str) -> Iterator[Reactor]:
    """The real kernel, store and reactor at `path`, over a simulated device; all of it from one seed."""
    state = StateDirectory(Path(path).with_name("state"))
    device = SimDevice(seed=SEED, tiers=TierLimits(host_bytes=1 << 20, disk_bytes=1 << 20, directory=state.pages))
    model = device.model
    store = Storage(StorageCore(state, fingerprint=model.fingerprint, page_bytes=model.page_bytes, decode=device.decode))
    kernel = Kernel(model, seed=SEED, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns())
    reactor = Reactor(kernel, device, store=store, socket_path=path, principal="ann")
    kernel.restore(store.load(), time.monotonic_ns())
    reactor.start()
    try:
        yield reactor
    finally:
        reactor.stop()


class Recorder:
    """A client's connections, and all that goes over them."""

    def __init__(self, path: str) -> None:
        self.lines: list[Line] = []
        self.secret = SECRET
        self._path = path
        self._wires: dict[int, Wire] = {}
        self._last_id: dict[int, int] = {}

    def note(self, text: str) -> None:
        self.lines.append({"note": text})

    def send(self, frame: bytes, on: int = 1) -> None:
        """Any bytes."""
        self.lines.append({"on": on, "send": text_of(frame)})
        if on not in self._wires:
            self._wires[on] = Wire(self._path)
        self._wires[on].socket.sendall(frame.replace(SECRET.encode(), self.secret.encode()))

    def start(self, op: str, args: Any, on: int = 1, piece: int = 0, call_id: int | None = None, **beside: Any) -> int:
        """Make a call, in chunks of `piece` bytes if that is given; its id."""
        call_id = self._last_id.get(on, 0) + 1 if call_id is None else call_id
        self._last_id[on] = max(call_id, self._last_id.get(on, 0))
        frame = call_frame(call_id, op, args, **beside)
        self.send(chunked(frame, piece) if piece else frame, on)
        return call_id

    def raw(self, op: str, args: dict[str, Any], on: int = 1) -> Line:
        """A call that our own library would not make."""
        call_id = self._last_id[on] = self._last_id.get(on, 0) + 1
        body = msgspec.msgpack.encode({"id": call_id, "op": op, "tid": 0, "a": args})
        self.send(len(body).to_bytes(4, "little") + body, on)
        return self.take(call_id, on)

    def take(self, call_id: int, on: int = 1, varying: tuple[str, ...] = ()) -> Line:
        """Wait for the end of a call; `varying`: fields whose value is not promised."""
        while True:
            got = self._wires[on].body()
            assert got is not None, f"the server closed the connection; {self.lines[-3:]}"
            body = got[0].replace(self.secret.encode(), SECRET.encode())
            line: Line = {"on": on, "get": text_of(body)}
            self.lines.append(line | ({"chunked": True} if got[1] else {}) | ({"varying": varying} if varying else {}))
            answer = decoded(body)
            if answer.get("id", 0) == call_id and is_end(answer):
                return answer

    def call(self, op: str, args: Any, on: int = 1, varying: tuple[str, ...] = (), **more: Any) -> Any:
        """Make a call and wait for its end; its result, or its error."""
        answer = self.take(self.start(op, args, on, **more), on, varying)
        return answer.get("ok", answer.get("err"))

    def hello(self, args: Any, on: int = 1) -> Any:
        """As `call`; a session's secret is kept out of the transcript."""
        self.start("hello", args, on)
        got = self._wires[on].body()
        assert got is not None
        answer = decoded(got[0])
        if secret := answer.get("ok", {}).get("resume"):
            self.secret = secret
        self.lines.append({"on": on, "get": text_of(got[0].replace(self.secret.encode(), SECRET.encode()))})
        return answer.get("ok", answer.get("err"))

    def cut(self, on: int = 1) -> None:
        """Close the connection."""
        self.lines.append({"on": on, "cut": True})
        self._wires[on].socket.close()

    def closed(self, on: int = 1) -> None:
        """The server closes the connection."""
        assert self._wires[on].body() is None
        self.lines.append({"on": on, "closed": True})


def main(target: str, *parts: str) -> None:
    with tempfile.TemporaryDirectory() as scratch, server(f"{scratch}/s"):
        recorder = Recorder(f"{scratch}/s")
        for part in parts or PARTS:
            PARTS[part](recorder)
    Path(target).write_text("".join(json.dumps(line) + "\n" for line in recorder.lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
