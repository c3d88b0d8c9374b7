"""select: channels, threads, generates and time; it takes nothing."""

import asyncio

import pytest

from vllm_symphony import lip
from vllm_symphony.testing import Machine


def value_of(machine, program, *args):
    run = machine.start(program, *args)
    machine.run()
    assert run.left_open == machine.files() == []
    return run.value


def names(sources, **known) -> list[str]:
    return [next(name for name, thing in known.items() if thing is source) for source in sources]


async def over_channels() -> list:
    seen = []
    async with lip.channel() as a, lip.channel() as b, lip.channel() as c:
        await b.send(1)
        await c.send(2)
        seen.append(names(await lip.select(a, b, c), a=a, b=b, c=c))
        seen.append(names(await lip.select(c, a, b), a=a, b=b, c=c))
        seen.append([(await b.recv()).json(), (await c.recv()).json()])
        seen.append(names(await lip.select(a, b, c, timeout_s=1.0), a=a, b=b, c=c))
    return seen


def test_it_gives_all_ready_channels_in_the_given_order_and_takes_nothing(machine):
    assert value_of(machine, over_channels) == [["b", "c"], ["c", "b"], [1, 2], []]


async def over_threads() -> list:
    seen = []
    async with lip.group() as g, lip.channel() as ch:
        fast, slow = g.start(lip.sleep, 1.0), g.start(lip.sleep, 3.0)
        sending = g.start(send_later, ch)
        left = {"fast": fast, "slow": slow, "ch": ch, "sending": sending}
        while left:
            ready = await lip.select(*left.values())
            seen.append([round(await lip.monotonic()), *names(ready, **left)])
            left = {name: source for name, source in left.items() if source not in ready}
        seen.append((await ch.recv()).json())
    return seen


async def send_later(ch: lip.Channel) -> None:
    await lip.sleep(2.0)
    await ch.send("late")


def test_it_wakes_at_whatever_comes_first(machine):
    *order, word = value_of(machine, over_threads)

    assert order[0] == [1, "fast"] and order[-1] == [3, "slow"]
    assert sorted(name for _, *found in order[1:-1] for name in found) == ["ch", "sending"]
    assert word == "late"


async def over_a_generate() -> list:
    async with lip.channel() as ch, lip.open(tokens=lip.render_chat("Who?")) as chat:
        draft = chat.generate(5, ignore_eos=True)
        await ch.send("first")
        first = names(await lip.select(ch, draft), ch=ch, draft=draft)
        await ch.recv()
        second = names(await lip.select(ch, draft), ch=ch, draft=draft)
        return [first, second, len((await draft).tokens)]


def test_a_generate_flies_on_while_others_are_looked_at():
    with Machine(step_s=1.0) as machine:
        assert value_of(machine, over_a_generate) == [["ch"], ["draft"], 5]


async def over_room() -> list:
    async with lip.channel(capacity=1) as ch:
        await ch.send(1)
        full = await lip.select(ch.room, timeout_s=1.0)
        await ch.recv()
        return [len(full), len(await lip.select(ch.room, timeout_s=1.0))]


def test_it_waits_for_room(machine):
    assert value_of(machine, over_room) == [0, 1]


async def over_a_kept_message() -> list:
    """A message that came to a cancelled receive is here, though the kernel has none."""
    async with lip.channel() as ch, lip.channel() as other:
        task = asyncio.ensure_future(ch.recv())
        await lip.sleep(0.1)
        await ch.send("kept")
        task.cancel()
        await asyncio.wait([task])
        await lip.sleep(0.1)
        await other.send("new")
        ready = names(await lip.select(ch, other), ch=ch, other=other)
        return [ready, (await ch.recv()).json()]


def test_a_message_that_is_here_already_is_seen(machine):
    assert value_of(machine, over_a_kept_message) == [["ch", "other"], "kept"]


async def cancelled() -> list:
    async with lip.channel() as ch, lip.group() as g:
        thread = g.start(lip.sleep, 2.0)
        task = asyncio.ensure_future(lip.select(ch, thread))
        await lip.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])
        stat = (await lip.ps(await lip.getpid()))[0]
        await thread
        return [task.cancelled(), list(stat.waiting)]


def test_a_cancelled_select_leaves_no_call_and_cancels_nothing(machine):
    assert value_of(machine, cancelled) == [True, ["sleep"]]


async def wrongly(what: str) -> str:
    async with lip.channel(access="w") as ch:
        sleeping = lip.sleep(1.0)
        sources = {"nothing": (), "a coroutine": (sleeping,), "a sender": (ch,)}[what]
        try:
            await lip.select(*sources)
        except lip.SymphonyError as e:
            return e.reason
        finally:
            sleeping.close()
    return ""


@pytest.mark.parametrize(("what", "reason"), [("nothing", "EINVAL"), ("a coroutine", "EINVAL"), ("a sender", "EACCES")])
def test_what_cannot_be_waited_for_is_refused(machine, what, reason):
    assert value_of(machine, wrongly, what) == reason
