"""Channels as programs hold them, on the simulated machine."""

import asyncio

import pytest

from vllm_symphony import lip
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Message
from vllm_symphony.lip import transport


async def collect(name: str) -> list:
    """All that is sent until nobody can send any more."""
    async with lip.channel(name, access="r") as ch:
        return [message.json() async for message in ch]


async def serve(name: str) -> int:
    """Answer with the double, until the word `end`."""
    num = 0
    async with lip.channel(name, access="r") as ch:
        async for message in ch:
            num += 1
            if not message.wants_reply:
                return num
            await message.reply(2 * message.json())
    return num


def value_of(machine, program, *args):
    run = machine.start(program, *args)
    machine.run()
    assert run.left_open == machine.files() == []
    assert machine.call("channels", calls.Channels()).channels == ()
    return run.value


async def sends_and_unlinks() -> list:
    async with lip.channel("words", create=True, access="w") as ch:
        child = await lip.spawn(collect, "words")
        for word in ("one", {"two": 2}, [3]):
            assert await ch.send(word) == 1
        while not (await lip.channels())[0].receivers:
            await lip.sleep(0.01)
        await ch.unlink()
    return await child.wait()


def test_a_loop_over_a_channel_ends_when_nobody_can_send(machine):
    assert value_of(machine, sends_and_unlinks) == ["one", {"two": 2}, [3]]


async def asks() -> list:
    async with lip.channel("double", exclusive=True, access="w") as ch:
        child = await lip.spawn(serve, "double")
        async with lip.group() as g:
            answers = [g.start(ch.request, n) for n in range(3)]
        await ch.send("end")
        served = await child.wait()
        await lip.channel_unlink("double")
    return [answer.result.json() for answer in answers] + [served]


def test_requests_get_their_own_answers(machine):
    assert value_of(machine, asks) == [0, 2, 4, 4]


async def cancels(when: str) -> list:
    """Cancel a receive before, while or after its message comes: nothing is lost, doubled or left open."""
    async with lip.channel() as ch, lip.open(text="abc") as book:
        task = asyncio.ensure_future(ch.recv())
        await lip.sleep(0.1)
        if when == "before":
            task.cancel()
        else:
            asyncio.get_running_loop().call_soon(task.cancel)
        if when == "on its way":
            await ch.send("first", files=[book])
        await asyncio.wait([task])
        if when == "before":
            await ch.send("first", files=[book])
        was_cancelled = task.cancelled()
        message = await ch.recv()
        async with message.files[0] as copy:
            text = await copy.text()
        try:
            await ch.recv(wait=False)
        except lip.WouldBlock:
            return [message.json(), text, was_cancelled]
    return ["doubled"]


@pytest.mark.parametrize("when", ["before", "on its way"])
def test_a_cancelled_receive_loses_no_message(machine, when):
    assert value_of(machine, cancels, when) == ["first", "abc", True]


async def cancels_and_closes() -> int:
    """A message with a file is on its way to a call that was cancelled, when the channel is closed."""
    ch = await lip.channel()
    async with lip.open(text="abc") as book:
        task = asyncio.ensure_future(ch.recv())
        await lip.sleep(0.1)
        await ch.send("x", files=[book])
        task.cancel()
        await asyncio.wait([task])
        await ch.close()
    await lip.sleep(0.1)
    stat = (await lip.ps(await lip.getpid()))[0]
    return stat.num_files + 1


def test_the_files_of_a_message_that_nobody_takes_are_closed(machine):
    assert value_of(machine, cancels_and_closes) == 1


async def borrows(name: str) -> str:
    """Look into the file that comes, and write into it if it may be written."""
    async with lip.channel(name, access="r") as ch:
        message = await ch.recv()
        book = message.files[0]
        try:
            await book.append("!")
        except lip.BadFile as e:
            return f"{await book.text()} {len(book)} {e.reason}"
        return await book.text()


async def lends(writable: bool) -> list[str]:
    async with lip.channel("loan", create=True, access="w") as ch, lip.open(text="abc") as book:
        child = await lip.spawn(borrows, "loan")
        await ch.send(None, files=[book], writable=writable)
        seen = await child.wait()
        await ch.unlink()
        return [seen, await book.text()]


@pytest.mark.parametrize(("writable", "wanted"), [(False, ["abc 3 EBADF", "abc"]), (True, ["abc!", "abc!"])])
def test_a_file_goes_along_with_the_rights_that_were_given(machine, writable, wanted):
    assert value_of(machine, lends, writable) == wanted


async def hears(name: str, num: int) -> list:
    async with lip.channel(name, access="r") as ch:
        await lip.sleep(1.0)
        return [(m.json(), m.missing) for m in [await ch.recv() for _ in range(num)]]


async def tells() -> list:
    async with lip.channel("news", create=True, access="w", kind="topic", capacity=2, overflow="drop_oldest") as ch:
        children = [await lip.spawn(hears, "news", 2) for _ in range(2)]
        await lip.sleep(0.5)
        took = [await ch.send(n) for n in range(4)]
        heard = [await child.wait() for child in children]
        await ch.unlink()
    return [took, *heard]


def test_all_listeners_hear_a_topic_and_what_they_missed(machine):
    assert value_of(machine, tells) == [[2] * 4, [[2, 2], [3, 0]], [[2, 2], [3, 0]]]


async def misuses() -> list[str]:
    said = []
    async with lip.channel() as ch:
        await ch.send(b"\xff")
        message = await ch.recv()
        for wrong in (message.json, message.reply):
            try:
                result = wrong()
                await result
            except lip.InvalidArgument as e:
                said.append(e.message)
        assert message.data == b"\xff"
        try:
            await ch.send({1, 2})
        except lip.InvalidArgument as e:
            said.append(e.message)
    await ch.close()
    return said


def test_what_makes_no_sense_is_refused_with_words(machine):
    bad_json, no_request, no_value = value_of(machine, misuses)

    assert bad_json.startswith("message 1 is no JSON")
    assert no_request == "message 1 wants no reply, or has it"
    assert no_value.startswith("not a JSON value")


async def forgets() -> int:
    """A channel whose last reference is gone is closed."""
    await lip.channel("lost", create=True)
    await lip.sleep(0.1)
    (stat,) = await lip.channels("ann/lost")
    await lip.channel_unlink("lost")
    return stat.receivers


def test_a_channel_that_nobody_holds_any_more_is_closed(machine):
    assert value_of(machine, forgets) == 0


class WithId(asyncio.Future):
    """A future that may have a `call_id`."""


class Late:
    """A transport whose answers come when the test says so."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future] = []
        self.posted: list[tuple[str, object]] = []

    def call(self, op, args, *, tid, on_part=None):
        future = WithId()
        future.call_id = len(self.asked) + 1
        self.asked.append(future)
        return future

    def post(self, op, args, *, tid):
        self.posted.append((op, args))


@pytest.mark.parametrize(("begin", "answer", "undone"), [
    (lambda: lip.channel("x").__aenter__(), calls.ChannelResult(7), ("channel_close", calls.ChannelArgs(7))),
    (lambda: lip.Channel(1, "x").request("?"), calls.RecvResult(Message(1, b"", 2, "ann", (8,))), ("close", calls.FdArgs(8))),
])  # fmt: skip
def test_what_comes_too_late_for_its_call_is_given_back(begin, answer, undone):
    late = Late()

    async def main() -> None:
        token = transport.bind(late)
        task = asyncio.ensure_future(begin())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert late.posted == [("cancel", calls.Cancel(1))]
        late.asked[0].set_result(answer)
        await asyncio.sleep(0)
        transport.unbind(token)

    asyncio.run(main())

    assert undone in late.posted
