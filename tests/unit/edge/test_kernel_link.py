"""The edge's link to the kernel, against a scripted kernel on a unix socket."""

import asyncio
from contextlib import suppress

import pytest

from vllm_symphony.abi.calls import Attach, AttachPart, Done, HelloResult, NoArgs
from vllm_symphony.abi.codec import error_frame, part_frame, read_call, reply_frame
from vllm_symphony.abi.frame import FrameReader
from vllm_symphony.abi.types import Credentials, ProcessEvent
from vllm_symphony.edge.kernel_link import MAX_PARTS_AHEAD, KernelLink
from vllm_symphony.errors import BrokenPipe, DeviceLost, NoSuchProcess, NotSupported, WouldBlock

CRED = Credentials("me")


class ScriptedKernel:
    """Answers hello; everything else goes to `answer(call, writer)`, a coroutine function."""

    def __init__(self, answer, abi_major: int = 1) -> None:
        self.answer, self.abi_major = answer, abi_major
        self.calls = []
        self.counted = {}
        self.ended = asyncio.Event()  # a connection ended

    async def connected(self, reader, writer):
        frames = FrameReader()
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for body in frames.feed(data):
                    await self.called(read_call(body), writer)
        self.ended.set()
        writer.close()

    async def called(self, call, writer):
        self.calls.append(call)
        if len(self.calls) in self.counted:
            self.counted[len(self.calls)].set()
        if call.op == "hello":
            writer.write(reply_frame(call.id, HelloResult(self.abi_major, 0, 1)))
        else:
            await self.answer(call, writer)

    async def has_calls(self, num_calls: int):
        """Until there were so many, hello included."""
        if len(self.calls) < num_calls:
            await self.counted.setdefault(num_calls, asyncio.Event()).wait()


def against(tmp_path, answer, work, **kernel_options):
    """Run `work(link, kernel)` with an open link."""

    async def main():
        kernel = ScriptedKernel(answer, **kernel_options)
        path = str(tmp_path / "k.sock")
        async with await asyncio.start_unix_server(kernel.connected, path) as server:
            link = KernelLink(path)
            try:
                await link.open()
                return await work(link, kernel)
            finally:
                link.close()
                await asyncio.sleep(0)
                server.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


async def silent(call, writer):
    pass


async def done(call, writer):
    writer.write(reply_frame(call.id, Done()))


def event(seq: int) -> AttachPart:
    return AttachPart((ProcessEvent(seq, 0, "stdout", "x", 1),))


def test_a_call_carries_its_caller_and_gets_its_own_answer(tmp_path):
    held = []

    async def backwards(call, writer):
        held.append(call)
        if len(held) == 2:
            for c in reversed(held):
                writer.write(error_frame(c.id, NoSuchProcess("x")) if c.op == "kill" else reply_frame(c.id, Done()))

    async def work(link, kernel):
        return await asyncio.gather(link.call("ping", NoArgs(), CRED), link.call("kill", NoArgs(), CRED), return_exceptions=True)

    ping, kill = against(tmp_path, backwards, work)

    assert ping == Done()
    assert isinstance(kill, NoSuchProcess)
    assert {c.cred for c in held} == {CRED}


def test_before_open_it_is_eagain_with_the_phase_and_after_a_loss_enodev(tmp_path):
    async def hang_up(call, writer):
        writer.close()

    async def work(link, kernel):
        early = KernelLink("nowhere")
        early.phase = "loading model"
        with pytest.raises(WouldBlock, match="loading model"):
            await early.call("ping", NoArgs(), CRED)
        with pytest.raises(DeviceLost):
            await link.call("ping", NoArgs(), CRED)
        assert link.lost.is_set()
        with pytest.raises(DeviceLost):
            await link.call("ping", NoArgs(), CRED)
        with pytest.raises(DeviceLost):
            await KernelLink("/nowhere").open()

    against(tmp_path, hang_up, work)


def test_another_abi_is_refused(tmp_path):
    with pytest.raises(NotSupported, match=r"ABI 2\.0"):
        against(tmp_path, done, silent, abi_major=2)


def test_a_cancelled_wait_cancels_the_call(tmp_path):
    async def work(link, kernel):
        task = asyncio.ensure_future(link.call("wait", NoArgs(), CRED))
        await kernel.has_calls(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await kernel.has_calls(3)
        return kernel.calls

    _, wait, cancel = against(tmp_path, silent, work)

    assert cancel.op == "cancel"
    assert bytes(cancel.a).endswith(bytes([wait.id]))


def test_a_stream_gives_its_parts_then_ends(tmp_path):
    async def three(call, writer):
        for seq in (1, 2, 3):
            writer.write(part_frame(call.id, event(seq)))
        await done(call, writer)

    async def work(link, kernel):
        return [part.events[0].seq async for part in link.stream("attach", Attach(1), CRED)]

    assert against(tmp_path, three, work) == [1, 2, 3]


def test_an_error_comes_after_the_parts_that_came_before(tmp_path):
    async def fail(call, writer):
        writer.write(part_frame(call.id, event(1)) + error_frame(call.id, NoSuchProcess("gone")))

    async def work(link, kernel):
        stream = link.stream("attach", Attach(1), CRED)
        assert await anext(stream) == event(1)
        with pytest.raises(NoSuchProcess):
            await anext(stream)

    against(tmp_path, fail, work)


def test_leaving_a_stream_hangs_up(tmp_path):
    async def forever(call, writer):
        writer.write(part_frame(call.id, event(1)))

    async def work(link, kernel):
        stream = link.stream("attach", Attach(1), CRED)
        await anext(stream)
        await stream.aclose()
        await kernel.ended.wait()
        return [c.op for c in kernel.calls]

    assert against(tmp_path, forever, work)[-1] == "cancel"


def test_a_slow_reader_stops_the_kernel_and_nobody_else(tmp_path):
    written = []

    async def flood(call, writer):
        if call.op == "ping":
            return await done(call, writer)
        big = AttachPart((ProcessEvent(1, 0, "stdout", "x" * 10_000, 1),))
        for _ in range(2_000):
            writer.write(part_frame(call.id, big))
            await writer.drain()
            written.append(1)
        await done(call, writer)

    async def work(link, kernel):
        stream = link.stream("attach", Attach(1), CRED)
        await anext(stream)
        for _ in range(50):
            await link.call("ping", NoArgs(), CRED)
        ahead = len(written)
        return ahead, 1 + len([part async for part in stream])

    ahead, total = against(tmp_path, flood, work)

    assert ahead < MAX_PARTS_AHEAD * 4
    assert total == 2_000


def test_a_stream_that_the_kernel_cuts_off_is_epipe_while_the_kernel_lives(tmp_path):
    async def cut(call, writer):
        if call.op == "ping":
            return await done(call, writer)
        writer.close()

    async def work(link, kernel):
        with pytest.raises(BrokenPipe):
            async for _ in link.stream("attach", Attach(1), CRED):
                pass

    against(tmp_path, cut, work)
