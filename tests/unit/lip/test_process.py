"""Processes as a program sees them."""

import pytest

from tests.unit.lip.toy import ToyTransport, play
from vllm_symphony import lip
from vllm_symphony.abi.calls import Done, Feed, Kill, PidResult


async def double(n: int, name: str = "x") -> list:
    return [2 * n, name]


async def crash() -> None:
    raise ValueError("oh no")


async def forever() -> None:
    import asyncio

    await asyncio.Event().wait()


def machine():
    return ToyTransport(program=globals())


def test_a_function_of_the_program_runs_as_a_process():
    toy = machine()

    async def main():
        child = await lip.spawn(double, 4, name="y")
        assert await child.wait() == [8, "y"] == await child.wait()

    play(main, toy)

    (args,) = [a for op, _, a in toy.log if op == "spawn"]
    assert (args.source, args.entry, args.args, args.detach) == (None, "double", '{"n": 4, "name": "y"}', False)


def test_source_text_runs_its_main():
    async def main():
        child = await lip.spawn("def main(a: int, b: int = 2):\n    return a + b", 5, b=6)
        assert await child.wait() == 11

    play(main, machine())


def test_a_failed_child_is_an_error_with_its_status():
    async def main():
        child = await lip.spawn(crash)
        with pytest.raises(lip.ProgramFailed, match="oh no") as caught:
            await child.wait()
        assert caught.value.status.code == 1 and caught.value.pid == child.pid

    play(main, machine())


def test_kill_ends_a_child():
    async def main():
        child = await lip.spawn(forever)
        assert child.pid in [p.pid for p in await lip.ps()]
        await child.kill()
        with pytest.raises(lip.ProgramFailed):
            await child.wait()
        with pytest.raises(lip.NoSuchProcess):
            await lip.kill(child.pid)

    play(main, machine())


def test_detach_outlives():
    toy = machine()

    async def main():
        await (await lip.detach(double, 1)).wait()

    play(main, toy)

    assert [a.detach for op, _, a in toy.log if op == "spawn"] == [True]


@pytest.mark.parametrize(
    ("what", "args", "kwargs"),
    [
        (double, (), {}),
        (double, ("four",), {}),
        (double, (1,), {"m": 2}),
        ("def main(a): pass", (1, 2), {}),
        ("def main(a): pass", (1,), {"a": 2}),
        ("def other(): pass", (), {}),
        ("def main(:", (), {}),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_starts(what, args, kwargs):
    toy = machine()

    async def main():
        with pytest.raises(lip.BadProgram):
            await lip.spawn(what, *args, **kwargs)

    play(main, toy)

    assert toy.ops() == []


def test_only_top_level_functions_can_be_spawned():
    async def main():
        for what in (lambda: 1, main, print, ToyTransport().ops):
            with pytest.raises(lip.InvalidArgument, match="top-level"):
                await lip.spawn(what)

    play(main, machine())


def spawned(what):
    """The arguments of the call that `what()` makes."""
    toy = machine()

    async def main():
        await what()

    play(main, toy)
    (args,) = [a for op, _, a in toy.log if op == "spawn"]
    return args


def test_what_a_child_is_given_travels_with_the_call():
    async def start():
        async with lip.open(tokens=[1, 2]) as book:
            limits = lip.Limits(tokens=9)
            await lip.spawn(double, 4, limits=limits, fds={"book": book}, tools=["web.*"], stdin=True)
            start.fd = book.fd

    args = spawned(start)

    assert (args.limits, args.fds, args.tools, args.stdin) == (lip.Limits(tokens=9), {"book": start.fd}, ("web.*",), True)
    assert args.args == '{"n": 4}'


def test_tools_that_are_none_and_no_tools_are_two_things():
    assert spawned(lambda: lip.spawn(double, 4)).tools is None
    assert spawned(lambda: lip.spawn(double, 4, tools=())).tools == ()


def test_an_argument_with_a_name_of_spawns_own_goes_by_position():
    args = spawned(lambda: lip.spawn("def main(limits, stdin): return limits", 5, True))

    assert args.args == '{"limits": 5, "stdin": true}' and args.limits is None and not args.stdin


@pytest.mark.parametrize(
    ("what", "args", "kwargs"),
    [
        (None, (), {}),
        (double, (), {"program": "ops/triage"}),
        (None, (), {"program": "ops/triage", "code": b"\0asm"}),
        (None, (1,), {"program": "ops/triage"}),
    ],
)
def test_one_thing_is_spawned(what, args, kwargs):
    async def main():
        with pytest.raises(lip.InvalidArgument):
            await lip.spawn(what, *args, **kwargs)

    play(main, machine())


def test_an_installed_program_and_a_module_take_arguments_by_name():
    toy = machine()
    toy.do_spawn = lambda a: PidResult(7)

    async def main():
        await lip.spawn(program="ops/triage@1.2", task="sort")
        await lip.detach(code=b"\0asm...", n=1)

    play(main, toy)

    first, second = [a for op, _, a in toy.log if op == "spawn"]
    assert (first.program, first.source, first.args, first.detach) == ("ops/triage@1.2", None, '{"task": "sort"}', False)
    assert (second.code, second.source, second.args, second.detach) == (b"\0asm...", None, '{"n": 1}', True)


def test_stop_cont_and_feed_are_calls_on_the_child():
    toy = machine()
    toy.do_kill = toy.do_feed = lambda a: Done()

    async def main():
        child = lip.Process(7)
        await child.stop()
        await child.cont()
        await child.feed("a line\n", eof=True)

    play(main, toy)

    assert [a for _, _, a in toy.log] == [Kill(7, "STOP"), Kill(7, "CONT"), Feed(7, b"a line\n", True)]
