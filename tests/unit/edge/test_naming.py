"""Links and copies by two names: what the edge does for them in its own process."""

import asyncio

import pytest

from vllm_symphony.abi.calls import Chmod, Done, FdArgs, FdResult, Link, Open, StatResult
from vllm_symphony.abi.types import Credentials, FileStat
from vllm_symphony.edge import naming
from vllm_symphony.edge.naming import Names, Naming
from vllm_symphony.errors import FileExists, InvalidArgument, WouldBlock

ME, YOU = Credentials("me"), Credentials("you")
STAT = FileStat(5, "/a", 1, "me", 0o640, 2, 2, 1, "exact", 1, False, 0, 0)
A_TO_B = Names("/a", "/b")


class Kernel:
    """Gives fds in order; `taken` are names that exist; a link waits while `held`."""

    def __init__(self):
        self.log, self.open, self.taken = [], set(), set()
        self.held: asyncio.Event | None = None
        self.is_linking, self.is_closed = asyncio.Event(), asyncio.Event()

    async def call(self, op, args, cred):
        self.log.append((op, args, cred))
        if op in ("open", "fork"):
            fd = len(self.log) + 10
            self.open.add(fd)
            return FdResult(fd, fd * 2, 2)
        if op == "stat":
            return StatResult(STAT)
        if op == "link":
            self.is_linking.set()
            if self.held is not None:
                await self.held.wait()
            if args.path in self.taken and not args.replace:
                raise FileExists(f"the name is taken: {args.path}")
            self.taken.add(args.path)
        return Done()

    def post(self, op, args, cred):
        assert op == "close"
        self.open.remove(args.fd)
        if not self.open:
            self.is_closed.set()


def test_a_link_names_the_open_file_and_closes_it():
    kernel = Kernel()

    asyncio.run(Naming(kernel).link(Names("/a", "/b", True), ME))

    assert kernel.log == [("open", Open("/a"), ME), ("link", Link(11, "/b", True), ME)]
    assert not kernel.open


def test_a_copy_is_a_fork_with_the_rights_of_the_original():
    kernel = Kernel()

    copy = asyncio.run(Naming(kernel).copy(A_TO_B, ME))

    fork = copy.fd
    assert [(op, args) for op, args, _ in kernel.log][2:] == [
        ("fork", FdArgs(11)), ("chmod", Chmod(0o640, fork)), ("link", Link(fork, "/b", False)),
    ]  # fmt: skip
    assert not kernel.open


def test_what_fails_leaves_no_fd_and_can_be_asked_again():
    async def main():
        kernel = Kernel()
        service = Naming(kernel)
        kernel.taken.add("/b")
        with pytest.raises(FileExists):
            await service.copy(A_TO_B, ME, "r1")
        assert not kernel.open
        kernel.taken.clear()
        await service.copy(A_TO_B, ME, "r1")

    asyncio.run(main())


def test_a_retry_gets_the_first_ones_result_and_only_the_same_principals():
    async def main():
        kernel = Kernel()
        service = Naming(kernel)
        first = await service.copy(A_TO_B, ME, "r1")
        num_calls = len(kernel.log)
        assert await service.copy(A_TO_B, ME, "r1") == first
        assert len(kernel.log) == num_calls
        with pytest.raises(InvalidArgument, match="another call"):
            await service.link(A_TO_B, ME, "r1")
        with pytest.raises(FileExists):
            await service.copy(A_TO_B, YOU, "r1")

    asyncio.run(main())


def test_who_hangs_up_in_the_middle_finds_it_done_by_a_retry():
    async def main():
        kernel = Kernel()
        kernel.held = asyncio.Event()
        service = Naming(kernel)
        asking = asyncio.create_task(service.copy(A_TO_B, ME, "r1"))
        await kernel.is_linking.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(WouldBlock, match="still runs"):
            await service.copy(A_TO_B, ME, "r1")
        kernel.held.set()
        await kernel.is_closed.wait()
        assert (await service.copy(A_TO_B, ME, "r1")).length == 2
        assert "/b" in kernel.taken

    asyncio.run(main())


def test_the_oldest_results_are_forgotten(monkeypatch):
    monkeypatch.setattr(naming, "MAX_KEPT", 2)

    async def main():
        kernel = Kernel()
        service = Naming(kernel)
        for n in range(3):
            await service.link(Names("/a", f"/b{n}"), ME, f"r{n}")
        await service.link(Names("/a", "/b2"), ME, "r2")
        with pytest.raises(FileExists):
            await service.link(Names("/a", "/b0"), ME, "r0")
        assert len(service._asked) == len(service._made) == 2

    asyncio.run(main())
