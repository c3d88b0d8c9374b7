"""Shares through real sockets: programs of two principals on the simulated device's server."""

import pytest

from tests.edge.test_identity import add, addresses, talk
from vllm_symphony.client import Program

PROMPT = 1500  # tokens of a call: the device is busy however slow programs are to call again
READER = """
import random
from vllm_symphony import lip

async def read() -> None:
    while True:
        async with lip.open(tokens=[random.randrange(40, 100) for _ in range(PROMPT)]) as f:
            await f.forward()

async def main(num: int) -> None:
    async with lip.group() as g:
        for _ in range(num):
            g.start(read)
""".replace("PROMPT", str(PROMPT))


@pytest.fixture(scope="module")
def server(fresh_server):
    return fresh_server("--device", "sim", "--no-state", "--listen", "127.0.0.1:0", "--trusted", "crowd", "--trusted", "single")


def had(result) -> dict[str, float]:
    return {p.principal: p.service for p in result.principals}


def test_one_program_beside_many_of_another_principal_has_its_half(server):
    (address,) = addresses(server)
    crowd, single, admin = (
        add(server, who, who, scopes=scopes) for who, scopes in (("crowd", ("run",)), ("single", ("run",)), ("boss", ("admin",)))
    )

    async def start(client, num_programs: int, num_threads: int) -> list[int]:
        return [await client.spawn(Program(READER, runtime="trusted"), num=num_threads) for _ in range(num_programs)]

    async def shares(client) -> tuple[float, float]:
        """From when both have had something until the single one has had enough to tell."""
        while not had(now := await client.sched()).get("single"):
            pass
        before = had(now)
        while had(now := await client.sched())["single"] - before["single"] < 40 * PROMPT:
            pass
        return had(now)["single"] - before["single"], had(now)["crowd"] - before["crowd"]

    async def end(client) -> int:
        """Kill all of them; how many calls are left."""
        for pid in pids:
            await client.kill(pid, "KILL")
        for pid in pids:
            await client.wait(pid)
        now = await client.sched()
        return now.num_queued + now.num_running

    pids = talk(address, lambda client: start(client, 30, 1), crowd)
    pids += talk(address, lambda client: start(client, 1, 8), single)
    one, others = talk(address, shares, admin)

    assert 0.44 <= one / (one + others) <= 0.56
    assert talk(address, end, admin) == 0
