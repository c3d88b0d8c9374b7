"""Exactly once over gRPC: Connect streams that are cancelled all the time, of sessions that go on."""

import queue
import random
from typing import Any

import grpc
import pytest

from tests.counts import SEED, count, random_for
from tests.wire.conftest import Served
from vllm_symphony.abi.calls import Append, CallError, Exit, Forward, ForwardResult, LengthResult, Open, Read
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, OpenFlags, pack_tokens, unpack_tokens
from vllm_symphony.proto.message import call_message, outcome_of
from vllm_symphony.proto.v1 import session_pb2, session_pb2_grpc

NUM_SESSIONS = 5
NUM_CUTS = count(60, 1500)
WAIT_S = 60.0


class Remote:
    """A session's client by plain stubs: calls are kept until they are answered, and sent again when they were not seen."""

    def __init__(self, stub: session_pb2_grpc.SessionServiceStub, rng: random.Random) -> None:
        self.stub, self.rng = stub, rng
        self.pid, self.token, self.received, self.last_id, self.num_cuts = 0, "", 0, 0, 0
        self.unanswered: dict[int, tuple[str, Any]] = {}
        self.asked: dict[int, tuple[str, Any]] = {}
        self.answers: dict[int, Any] = {}
        self._connect(lease_s=600)
        self.fd = self.ask("open", Open(flags=int(OpenFlags.RDWR | OpenFlags.TMPFILE))).fd

    def _connect(self, **hello: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        said = session_pb2.Hello(abi_major=ABI_MAJOR, abi_minor=ABI_MINOR, **hello)
        self._requests.put(session_pb2.ConnectRequest(hello=said))
        self._rpc = self.stub.Connect(iter(self._requests.get, None), timeout=WAIT_S)
        answer = next(self._rpc).hello
        self.pid, self.token = answer.pid, answer.resume
        for call_id in [i for i in self.unanswered if i > answer.last_call]:
            self._send(call_id)

    def cut(self) -> None:
        self._rpc.cancel()
        self._requests.put(None)
        self.num_cuts += 1
        self._connect(pid=self.pid, resume=self.token, received=self.received)

    def begin(self, op: str, args: Any) -> int:
        self.last_id += 1
        self.unanswered[self.last_id] = self.asked[self.last_id] = (op, args)
        return self.last_id

    def _send(self, call_id: int) -> None:
        op, args = self.unanswered[call_id]
        request = session_pb2.ConnectRequest(ack=self.received if self.rng.random() < 0.5 else 0)
        request.call.id = call_id
        call_message(op, args, request.call)
        self._requests.put(request)

    def hear(self) -> None:
        message = next(self._rpc)
        assert message.seq == self.received + 1
        self.received = message.seq
        assert message.answer.id not in self.answers, "answered twice"
        self.answers[message.answer.id] = outcome_of(message.answer)
        del self.unanswered[message.answer.id]

    def ask(self, op: str, args: Any) -> Any:
        call_id = self.begin(op, args)
        self._send(call_id)
        while call_id not in self.answers:
            self.hear()
        return self.answers[call_id]

    def step(self) -> None:
        for _ in range(self.rng.randint(1, 3)):
            token = pack_tokens([self.rng.randrange(256)])
            call_id = self.begin(
                *self.rng.choice((("append", Append(self.fd, token)), ("forward", Forward(self.fd, token, top_k=1))))
            )
            if self.rng.random() < 0.2:
                return self.cut()
            self._send(call_id)
        for _ in range(self.rng.randint(0, len(self.unanswered))):
            self.hear()
        if self.rng.random() < 0.7:
            self.cut()

    def check(self) -> int:
        """What the answers say is what the file holds; gives the number of calls."""
        while self.unanswered:
            self.hear()
        written: dict[int, bytes] = {}
        for call_id, answer in self.answers.items():
            match answer:
                case LengthResult(length) | ForwardResult(length):
                    assert length not in written, f"two calls put their token at {length}"
                    written[length] = self.asked[call_id][1].tokens
                case CallError(reason):
                    assert reason == "EBUSY"
        tokens = unpack_tokens(self.ask("read", Read(self.fd)).tokens)
        assert len(tokens) == len(written)
        assert tokens == [unpack_tokens(written[n])[0] for n in range(1, len(written) + 1)]
        return len(self.asked)

    def close(self) -> None:
        self.ask("exit", Exit(0))
        self._rpc.cancel()
        self._requests.put(None)


@pytest.mark.timeout(900)
def test_every_call_happens_once_over_grpc_however_often_the_stream_is_cancelled(served: Served):
    rng = random_for("exactly once over grpc")
    with grpc.insecure_channel(served.address) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        remotes = [Remote(stub, random.Random(rng.random())) for _ in range(NUM_SESSIONS)]

        while sum(remote.num_cuts for remote in remotes) < NUM_CUTS:
            rng.choice(remotes).step()

        num_calls = sum(remote.check() for remote in remotes)
        print(f"{NUM_CUTS} cuts, {num_calls} calls over gRPC, none lost, none doubled; seed {SEED}")
        for remote in remotes:
            remote.close()
