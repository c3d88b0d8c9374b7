"""Exactly once: sessions whose connections break all the time, wherever they can, and in which every call happens once.

    before it is sent | after a part of it | after all of it | in the middle of the answer | not at all, but another one comes

What the answers say is compared with what the machine then holds: the length that an append or a forward answered is where its
token stands, all lengths from 1 on were answered, and the random bytes are the process's, from the first on, each once.
"""

import random
import socket

import pytest

from tests.conformance.host import ServerHost
from tests.counts import SEED, count, random_for
from tests.wire.remote import Remote
from vllm_symphony.abi.calls import Append, BytesResult, CallError, Forward, ForwardResult, LengthResult, Open, Random, Read
from vllm_symphony.abi.types import OpenFlags, pack_tokens, unpack_tokens
from vllm_symphony.kernel.process import ByteSource

NUM_SESSIONS = 20
NUM_CUTS = count(500, 10_000)
VOCABULARY = 256
RANDOM_BYTES = 8


class Program:
    """One session, its file, and what it asked for. `step` does something, and often breaks the connection."""

    def __init__(self, path: str, rng: random.Random) -> None:
        self.remote = Remote(path)
        self.rng = rng
        self.fd = self.remote.ask("open", Open(flags=int(OpenFlags.RDWR | OpenFlags.TMPFILE))).fd
        self.asked: dict[int, tuple[str, int]] = {}
        self.left: socket.socket | None = None

    def step(self) -> None:
        remote, rng = self.remote, self.rng
        for call_id in [self._next() for _ in range(rng.randint(1, 3))]:
            data = remote.frame(call_id, ack=rng.random() < 0.5)
            where = rng.random()
            if where < 0.15:
                return self._cut()
            if where < 0.35:
                remote.send(data[: rng.randrange(1, len(data))])
                return self._cut()
            remote.send(data)
        if rng.random() < 0.5:
            return self._cut()
        while remote.unanswered:
            remote.hear(rng.choice((1, 3, 17, 64, 1000)))
            if rng.random() < 0.1:
                return self._cut()

    def _next(self) -> int:
        op, token = self.rng.choice(("append", "append", "forward", "random")), self.rng.randrange(VOCABULARY)
        packed = pack_tokens([token])
        args = {"append": Append(self.fd, packed), "forward": Forward(self.fd, packed, top_k=1), "random": Random(RANDOM_BYTES)}[op]
        call_id = self.remote.call(op, args)
        self.asked[call_id] = (op, token)
        return call_id

    def _cut(self) -> None:
        if self.rng.random() < 0.1:
            self.left = self.remote.leave_half_open()
        else:
            self.remote.cut()
        self.remote.resume()
        if self.left is not None:
            self.left.close()
            self.left = None

    def check(self, kernel_seed: int) -> tuple[int, int]:
        """All calls were answered, and the answers tell what is there. Gives the number of calls and of those that were refused."""
        remote = self.remote
        remote.settle()
        answers = {call_id: remote.answers[call_id] for call_id in self.asked}
        drawn, written, refused = [], {}, 0
        for call_id, answer in sorted(answers.items()):
            match answer:
                case BytesResult(data):
                    drawn.append(data)
                case LengthResult(length) | ForwardResult(length):
                    assert length not in written, f"two calls put their token at {length}"
                    written[length] = self.asked[call_id][1]
                case CallError(reason):
                    assert reason == "EBUSY", answer
                    refused += 1
        assert sorted(written) == list(range(1, len(written) + 1))
        assert [written[n] for n in sorted(written)] == unpack_tokens(remote.ask("read", Read(self.fd)).tokens)
        assert b"".join(drawn) == ByteSource(kernel_seed, remote.pid).take(RANDOM_BYTES * len(drawn))
        return len(answers), refused


@pytest.mark.timeout(900)
def test_every_call_happens_once_and_is_answered_once_however_often_the_connection_breaks(host: ServerHost, record_property):
    rng = random_for("exactly once")
    programs = [Program(host.path, random.Random(rng.random())) for _ in range(NUM_SESSIONS)]

    while sum(program.remote.num_cuts for program in programs) < NUM_CUTS:
        rng.choice(programs).step()

    counted = [program.check(host.kernel.seed) for program in programs]
    num_calls, num_refused = (sum(column) for column in zip(*counted, strict=True))
    assert num_refused < num_calls / 2
    print(f"{NUM_CUTS} cuts, {num_calls} calls, {num_refused} refused (EBUSY), none lost, none doubled; seed {SEED}")
    record_property("calls", num_calls)
    for program in programs:
        program.remote.close()
