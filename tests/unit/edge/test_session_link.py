"""A session's connection to the kernel, against a scripted kernel: what comes together with the hello, and what comes wrong."""

import asyncio

import pytest

from vllm_symphony.abi.calls import Hello, HelloResult, PidResult
from vllm_symphony.abi.codec import error_frame, reply_frame
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Credentials
from vllm_symphony.edge.session_link import connect_session
from vllm_symphony.errors import BrokenPipe, DeviceLost, InvalidArgument, NoSuchProcess

GREETING = reply_frame(0, HelloResult(ABI_MAJOR, ABI_MINOR, 7, resume="secret"))
TAKEN = error_frame(0, BrokenPipe("another connection took the session over"))


def heard(tmp_path, said: bytes):
    """Connect to a kernel that says so and hangs up: the answers' ids, and how they end."""

    async def main():
        async def kernel(reader, writer):
            await reader.read(1)
            writer.write(said)
            await writer.drain()
            writer.close()

        path = str(tmp_path / "k.sock")
        async with await asyncio.start_unix_server(kernel, path):
            link = await connect_session(path, Hello(ABI_MAJOR, ABI_MINOR), Credentials("me"))
            try:
                ids = []
                with pytest.raises((BrokenPipe, DeviceLost, InvalidArgument)) as end:
                    await collect(link, ids)
                return ids, end.type
            finally:
                link.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


async def collect(link, ids):
    async for answer in link.answers():
        ids.append(answer.id)


def test_a_reason_that_comes_at_once_with_the_hello_is_a_reason_and_no_answer(tmp_path):
    assert heard(tmp_path, GREETING + TAKEN) == ([], BrokenPipe)


def test_answers_before_the_reason_are_given_first(tmp_path):
    assert heard(tmp_path, GREETING + reply_frame(3, PidResult(7), 1) + TAKEN) == ([3], BrokenPipe)


def test_a_kernel_that_hangs_up_or_talks_nonsense_is_an_error(tmp_path):
    assert heard(tmp_path, GREETING) == ([], DeviceLost)
    with pytest.raises(InvalidArgument):
        heard(tmp_path, b"\xff\xff\xff\xff")


def test_a_refused_hello_is_the_refusal(tmp_path):
    with pytest.raises(NoSuchProcess):
        heard(tmp_path, error_frame(0, NoSuchProcess("no open session: 7")))


def test_a_kernel_that_answers_nothing_is_gone(tmp_path):
    with pytest.raises(DeviceLost):
        heard(tmp_path, b"")
