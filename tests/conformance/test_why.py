"""What a program waits for is told in the middle of a step, without waiting for it."""

from tests.conformance.host import eventually
from vllm_symphony.abi.calls import Kill, PidArgs

HOSTS = ("sim-server", "own", "http")
SOURCE = """
from vllm_symphony import lip

async def main():
    async with lip.open(tokens=[50, 51, 52]) as f, lip.group() as g:
        g.start(lip.sleep, 600)
        while True:  # however slowly it is looked for
            await f.generate(1500, ignore_eos=True)
            await f.truncate(3)
"""


def test_why_tells_of_each_thread_while_the_engine_stands_still(host):
    pid = host.spawn(SOURCE)
    host.until_waiting(pid, "generate")
    host.until_waiting(pid, "sleep")

    def met():
        """What it waits for, where it is in a batch while the engine stands still."""
        thaw = host.freeze()
        try:
            threads = host.client.ask("why", PidArgs(pid)).threads
        finally:
            thaw()
        return threads if threads[0].cause == "batch" else None

    main, sleeper = eventually(met, "it was never met in a batch")

    assert (main.op, main.cause) == ("generate", "batch") and main.detail.startswith("in step ")
    assert (sleeper.op, sleeper.args, sleeper.cause) == ("sleep", "seconds=600.0", "timer")
    host.client.ask("kill", Kill(pid, "KILL"))
    assert host.wait(pid).status.code == 137
