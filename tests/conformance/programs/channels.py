"""Channels between processes: what is sent arrives once and in order, requests are answered or break, files go along."""

import asyncio

from vllm_symphony import lip


async def serve_requests(name: str) -> int:
    """Double what is asked for; a None ends it at once, without an answer."""
    num = 0
    async with lip.channel(name, access="r") as ch:
        async for message in ch:
            if message.json() is None:
                return num
            num += 1
            await message.reply(2 * message.json())
    return num


async def send_numbers(name: str, num: int) -> None:
    async with lip.channel(name, access="w") as ch:
        for n in range(num):
            await ch.send(n)


async def append_to_what_comes(name: str) -> None:
    async with lip.channel(name, access="r") as ch:
        message = await ch.recv()
        async with message.files[0] as file:
            await file.append([7])
            await message.reply(file.length)


async def listen(name: str, num: int) -> list:
    async with lip.channel(name, access="r") as ch:
        return [(await ch.recv()).json() for _ in range(num)]


async def messages_arrive_once_and_in_order():
    async with lip.channel("numbers", exclusive=True, access="r", capacity=3) as ch:
        senders = [await lip.spawn(send_numbers, "numbers", 20) for _ in range(2)]
        found = {sender.pid: [] for sender in senders}
        for _ in range(40):
            message = await ch.recv()
            found[message.pid].append(message.json())
        assert list(found.values()) == [list(range(20))] * 2
        for sender in senders:
            await sender.wait()
        await ch.unlink()


async def requests_are_answered():
    async with lip.channel("double", exclusive=True, access="w") as ch:
        child = await lip.spawn(serve_requests, "double")
        async with lip.group() as g:
            answers = [g.start(ch.request, n) for n in range(10)]
        assert [answer.result.json() for answer in answers] == [2 * n for n in range(10)]
        assert {answer.result.pid for answer in answers} == {child.pid}
        await ch.unlink()
    assert await child.wait() == 10


async def a_request_breaks_when_its_receiver_ends():
    async with lip.channel("broken", exclusive=True, access="w") as ch:
        await lip.spawn(serve_requests, "broken")
        try:
            await ch.request(None)
        except lip.BrokenPipe:
            pass
        else:
            raise AssertionError("nobody answered, and it did not break")
        await ch.unlink()


async def a_file_goes_along_and_both_write_it():
    async with lip.channel("file", exclusive=True, access="w") as ch, lip.open(tokens=[5, 6]) as file:
        child = await lip.spawn(append_to_what_comes, "file")
        answer = await ch.request(None, files=[file], writable=True)
        assert answer.json() == 3
        assert await file.read() == [5, 6, 7]
        await file.forward()
        await child.wait()
        await ch.unlink()


async def all_listeners_hear_a_topic():
    async with lip.channel("news", exclusive=True, access="w", kind="topic") as ch:
        children = [await lip.spawn(listen, "news", 3) for _ in range(2)]
        while (await lip.channels())[0].receivers < 2:
            await lip.sleep(0.01)
        assert [await ch.send(n) for n in range(3)] == [2, 2, 2]
        assert [await child.wait() for child in children] == [[0, 1, 2]] * 2
        await ch.unlink()


async def a_cancelled_receive_loses_nothing():
    async with lip.channel("tail", exclusive=True, access="r") as ch:
        sender = await lip.spawn(send_numbers, "tail", 30)
        found = []
        while len(found) < 30:
            task = asyncio.ensure_future(ch.recv())
            await asyncio.sleep(0)
            if len(found) % 3:
                task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                found.append((await ch.recv()).json())
            else:
                found.append(task.result().json())
        assert found == list(range(30))
        await sender.wait()
        await ch.unlink()


async def select_sees_a_child_and_a_channel():
    async with lip.channel("work", exclusive=True, access="r") as ch, lip.group() as g:
        child = await lip.spawn(send_numbers, "work", 2)
        ending, found = g.start(child.wait), []
        sources = [ch, ending]
        while len(found) < 2 or ending in sources:
            ready = await lip.select(*sources, timeout_s=30.0)
            assert ready
            if ch in ready:
                found.append((await ch.recv()).json())
            if ending in ready:
                sources.remove(ending)
        assert found == [0, 1]
        await ch.unlink()
