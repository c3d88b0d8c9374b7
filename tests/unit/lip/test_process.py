"""Processes as a program sees them."""

import pytest

from tests.unit.lip.toy import ToyTransport, play
from vllm_symphony import lip


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
