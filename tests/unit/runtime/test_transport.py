"""A program's end of its socket, against a scripted kernel end in the same test."""

import asyncio
import socket
import threading

import pytest

from vllm_symphony.abi import codec
from vllm_symphony.abi.calls import Cancel, Done, Emit, Generate, GeneratePart, GenerateResult, NoArgs, PidResult, Sleep, Tokenize
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.errors import DeviceLost, InvalidArgument, NoSuchFile
from vllm_symphony.runtime.transport import SocketTransport


class KernelEnd:
    """The other end: reads calls, sends what the test says."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(10)
        self._reader = FrameReader()
        self._bodies = []

    async def call(self):
        return await asyncio.to_thread(self._call)

    def _call(self):
        while not self._bodies:
            data = self.sock.recv(1 << 16)
            assert data, "the program closed"
            self._bodies = self._reader.feed(data)
        call = codec.read_call(self._bodies.pop(0))
        return call, codec.read_args(call)


def drive(scenario):
    """Run `scenario(transport, kernel end)`."""
    left, right = socket.socketpair()

    async def main():
        transport = SocketTransport(left)
        transport.start()
        try:
            await asyncio.wait_for(scenario(transport, KernelEnd(right)), 60)
        finally:
            transport.close()
            right.close()

    asyncio.run(main())


def test_answers_find_their_calls_in_any_order():
    async def scenario(t, k):
        a, b = t.call("getpid", NoArgs(), tid=0), t.call("getpid", NoArgs(), tid=4)
        (first, _), (second, _) = await k.call(), await k.call()
        assert (first.tid, second.tid) == (0, 4)
        k.sock.sendall(codec.reply_frame(second.id, PidResult(2)) + codec.reply_frame(first.id, PidResult(1)))
        assert ((await a).pid, (await b).pid) == (1, 2)

    drive(scenario)


def test_errors_arrive_typed():
    async def scenario(t, k):
        pending = t.call("getpid", NoArgs())
        call, _ = await k.call()
        k.sock.sendall(codec.error_frame(call.id, NoSuchFile("no such file: /a", path="/a")))
        with pytest.raises(NoSuchFile) as e:
            await pending
        assert e.value.values == {"path": "/a"}

    drive(scenario)


def test_parts_come_before_the_result():
    async def scenario(t, k):
        parts = []
        pending = t.call("generate", Generate(1), on_part=parts.append)
        call, _ = await k.call()
        k.sock.sendall(
            codec.part_frame(call.id, GeneratePart(b"1234"))
            + codec.part_frame(call.id, GeneratePart(b"5678"))
            + codec.reply_frame(call.id, GenerateResult(2, "length", b"12345678"))
        )
        assert (await pending).reason == "length" and [p.tokens for p in parts] == [b"1234", b"5678"]

    drive(scenario)


def test_cancelling_a_call_cancels_it_at_the_kernel_and_drops_its_late_answer():
    async def scenario(t, k):
        pending = asyncio.ensure_future(asyncio.wait_for(t.call("sleep", Sleep(100)), 0.01))
        call, _ = await k.call()
        with pytest.raises(TimeoutError):
            await pending
        cancel, args = await k.call()
        assert (cancel.id, cancel.op, args) == (0, "cancel", Cancel(call.id))
        later = t.call("ping", NoArgs())
        again, _ = await k.call()
        k.sock.sendall(codec.reply_frame(call.id, Done()) + codec.reply_frame(again.id, Done()))
        assert await later == Done()

    drive(scenario)


def test_a_lost_socket_fails_calls_in_flight_and_later_ones():
    async def scenario(t, k):
        pending = t.call("sleep", Sleep(100))
        await k.call()
        k.sock.close()
        with pytest.raises(DeviceLost):
            await pending
        with pytest.raises(DeviceLost):
            await t.call("ping", NoArgs())
        t.post("emit", Emit("1"))

    drive(scenario)


def test_garbage_from_the_kernel_is_a_loss():
    async def scenario(t, k):
        pending = t.call("ping", NoArgs())
        k.sock.sendall(b"\x05\0\0\0\xff\xff\xff\xff\xff")
        with pytest.raises(DeviceLost):
            await pending

    drive(scenario)


def test_a_large_call_waits_for_the_socket_without_blocking_the_loop():
    async def scenario(t, k):
        text = "x" * (4 << 20)
        pending = t.call("tokenize", Tokenize(text))
        t.post("emit", Emit("1"))
        await asyncio.sleep(0)  # the loop lives though the socket is full
        call, args = await k.call()
        assert args.text == text
        assert (await k.call())[0].op == "emit"
        k.sock.sendall(codec.error_frame(call.id, NoSuchFile("x")))
        with pytest.raises(NoSuchFile):
            await pending

    drive(scenario)


def test_arguments_that_cannot_be_sent_fail_at_once():
    async def scenario(t, k):
        with pytest.raises(InvalidArgument):
            t.call("sleep", Sleep(2**70))

    drive(scenario)


def test_post_is_safe_from_another_thread():
    async def scenario(t, k):
        thread = threading.Thread(target=t.post, args=("emit", Emit("1")), kwargs={"tid": 0})
        thread.start()
        assert (await k.call())[0].op == "emit"
        thread.join()

    drive(scenario)


def test_term_is_heard_once():
    left, right = socket.socketpair()

    async def main():
        heard = []
        transport = SocketTransport(left, early=[FrameReader().feed(codec.signal_frame("TERM"))[0]])
        transport.start(on_term=lambda: heard.append(1))
        right.sendall(codec.signal_frame("TERM"))
        pending = transport.call("ping", NoArgs())
        right.sendall(codec.reply_frame(1, Done()))
        await pending
        assert heard == [1]
        transport.close()
        right.close()

    asyncio.run(main())
