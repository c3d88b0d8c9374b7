"""Two programs of nobody's, in processes of their own, talk over a channel; one of them dies."""

from __future__ import annotations

from tests.conformance.host import eventually
from vllm_symphony.abi.calls import ChannelName, Channels, Kill, PidArgs

HOSTS = ("sim-server", "own", "http")
SERVER = """
from vllm_symphony import lip

async def main(slow: bool):
    async with lip.channel("desk", create=True, access="r") as desk:
        lip.emit("open")
        async for message in desk:
            if slow:
                await lip.sleep(600)
            await message.reply(message.json().upper())
"""
CLIENT = """
from vllm_symphony import lip

async def main():
    async with lip.channel("desk", access="w") as desk:
        try:
            return (await desk.request("word")).json()
        except lip.BrokenPipe as e:
            return e.reason
"""


def open_desk(host, slow: bool) -> int:
    pid = host.spawn(SERVER, slow=slow)
    eventually(lambda: host.client.ask("channels", Channels()).channels, "the channel was never made")
    return pid


def close_desk(host, pid: int) -> None:
    host.client.ask("kill", Kill(pid, "KILL"))
    assert host.wait(pid).status.code == 137
    host.client.ask("channel_unlink", ChannelName(f"{host.principal}/desk"))


def test_a_request_of_one_program_is_answered_by_another(host):
    desk = open_desk(host, slow=False)

    assert host.run(CLIENT).value == "WORD"

    close_desk(host, desk)


def test_why_names_the_other_side_and_its_death_breaks_the_request(host):
    desk = open_desk(host, slow=True)
    client = host.spawn(CLIENT)
    host.until_waiting(client, "request")
    host.until_waiting(desk, "sleep")

    (wait,) = host.client.ask("why", PidArgs(client)).threads
    assert (wait.op, wait.cause) == ("request", "channel")
    assert wait.detail == f"process {desk} has received it and not answered"
    close_desk(host, desk)

    assert host.wait(client).value == "EPIPE"
