"""Remote programs talk with those at the server over channels: each message arrives once, however often the connection breaks."""

import asyncio

import pytest

from tests.counts import count
from tests.edge.test_sessions import HASTY, cut_off, talk
from vllm_symphony import lip

SERVER = """
from vllm_symphony import lip

async def main(name: str) -> int:
    num = 0
    async with lip.channel(name, create=True, access="r") as desk:
        async for message in desk:
            if message.json() is None:
                break
            num += 1
            for file in message.files:
                await file.append([num % 200])
                await file.close()
            await message.reply([num, message.json()])
    await lip.channel_unlink(name)
    return num
"""


@pytest.fixture(scope="module")
def sim(fresh_server):
    server = fresh_server("--device", "sim")
    yield server
    server.stop()


async def opened(name: str) -> lip.Channel:
    """The channel, as soon as the server's program has made it."""
    while not [stat for stat in await lip.channels() if stat.name.endswith(f"/{name}")]:
        await lip.sleep(0.01)
    return await lip.channel(name, access="w")


def test_a_remote_program_asks_one_at_the_server_and_lends_it_a_file(sim):
    async def work(client):
        run = asyncio.ensure_future(client.run(SERVER, name="desk").result())
        async with client.session():
            desk, file = await opened("desk"), await lip.open(tokens=[7])
            answer = await desk.request("first", files=[file], writable=True)
            found = answer.json(), await file.read()
            await desk.send(None)
        return found, (await run).value

    assert talk(sim, work) == (([1, "first"], [7, 1]), 1)


def test_requests_happen_once_and_are_answered_once_however_often_the_connection_breaks(sim, tmp_path):
    wanted = count(60, 600)

    async def ask(desk, thread, link):
        """Requests with a file each, and none is lost or made twice."""
        num = 0
        while link.num_cuts < wanted:
            async with await lip.open(tokens=[7]) as file:
                answer = (await desk.request([thread, num], files=[file], writable=True)).json()
                assert answer[1] == [thread, num]
                assert await file.read() == [7, answer[0] % 200]
            num += 1
        return num

    async def main():
        async with cut_off(sim, tmp_path, "channels cut", retry=HASTY) as (client, link, direct):
            run = asyncio.ensure_future(direct.run(SERVER, name="cut").result())
            async with client.session(lease_s=60):
                desk = await opened("cut")
                link.most_bytes = 6_000
                link.cut()
                async with lip.group() as g:
                    threads = [g.start(ask, desk, thread, link) for thread in range(3)]
                await desk.send(None)
            return sum(thread.result for thread in threads), (await run).value

    asked, answered = asyncio.run(asyncio.wait_for(main(), count(110, 1100)))

    assert asked == answered > 0
