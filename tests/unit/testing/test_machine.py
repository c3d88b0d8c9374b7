"""A machine in a test: time that is let pass, what can be looked at half-way, and that nothing is left."""

from pathlib import Path

import pytest

from vllm_symphony import lip
from vllm_symphony.testing import Machine, Script, run_program


async def ticks(num_ticks: int = 3, seconds: float = 10.0) -> None:
    for i in range(num_ticks):
        await lip.sleep(seconds)
        lip.emit(i)


async def write(num_tokens: int = 5) -> int:
    async with lip.open(text="The lamp") as file:
        lip.emit("begun")
        await file.generate(num_tokens, ignore_eos=True)
        return file.length


def test_time_passes_as_far_as_it_is_let(machine):
    run = machine.start(ticks)

    machine.advance(9.999)
    assert run.emitted == []
    machine.advance(0.001)
    assert run.emitted == [0] and machine.now_s == 10
    machine.run(until_s=25)
    assert run.emitted == [0, 1] and machine.now_s == 25 and not run.has_ended

    machine.run()
    assert run.emitted == [0, 1, 2] and run.status.code == 0 and machine.now_s == 30


def test_a_run_until_a_time_ends_with_the_last_program(machine):
    machine.start(ticks)

    machine.run(until_s=1000)

    assert machine.now_s == 30


def test_time_may_pass_without_a_program(machine):
    machine.advance(86_400)

    assert machine.now_s == 86_400


def test_a_blocked_machine_can_be_looked_at(machine):
    writer, sleeper = machine.start(write), machine.start(ticks)

    machine.run_until_blocked()

    assert machine.now_s == 0
    assert [(p.pid, p.waiting) for p in machine.ps()] == [(writer.pid, ("generate",)), (sleeper.pid, ("sleep",))]
    assert [(f.path, f.length, f.busy) for f in machine.files()] == [(None, 8, True)]
    assert writer.emitted == ["begun"]
    machine.run()
    assert writer.value == 13 and machine.ps() == machine.files() == []


def test_a_condition_pauses_the_machine(machine):
    run = machine.start(ticks)

    machine.run_until(lambda: len(run.emitted) == 2)
    assert machine.now_s == 20

    machine.run()
    with pytest.raises(AssertionError, match="ended by 30 s"):
        machine.run_until(lambda: len(run.emitted) == 4)


def test_steps_take_the_time_that_was_set():
    with Machine(step_s=0.5) as m:
        m.start(write, 5)
        m.run()

        assert m.now_s == 2.5


def test_the_event_log_tells_calls_with_arguments_and_results(machine):
    async def main() -> None:
        async with lip.open(text="a b c") as file:
            await file.forward(top_k=7)
            try:
                await file.forward(at=99)
            except lip.StaleFile:
                await lip.sleep(2)

    run = machine.start(main)
    machine.run()

    assert [c.op for c in machine.calls(run)] == ["tokenize", "open", "forward", "forward", "sleep", "close", "exit"]
    first, second = machine.calls(run, "forward")
    assert (first.args, first.result) == ("fd=3 n=0 top_k=7", "ok")
    assert second.result == "ESTALE"
    (sleep,) = machine.calls(run.pid, "sleep")
    assert sleep.t_end_ns - sleep.t_start_ns == 2_000_000_000


def test_named_files_stay_and_can_be_read(machine):
    async def main() -> None:
        async with lip.open("/note", text="remember") as file:
            await file.forward()

    machine.start(main)
    machine.run()

    assert [f.path for f in machine.files()] == ["/note"]
    assert machine.text("/note") == "remember"


def test_a_file_that_main_did_not_close_is_known():
    kept = []

    async def main() -> None:
        kept.append(await lip.open(text="left"))

    with Machine() as m:
        run = m.start(main)
        m.run()

        assert [f.length for f in run.left_open] == [4]
        m.check_idle()


def test_a_program_that_still_runs_is_not_idle():
    with Machine() as m:
        run = m.start(ticks)
        m.advance(1)

        with pytest.raises(AssertionError, match=f"program {run.pid} \\(ticks\\) waits in sleep"):
            m.check_idle()


async def whose() -> str:
    async with lip.open("/tmp/note", text="x", mode=0o600) as file:
        return (await file.stat()).owner


async def pry() -> str:
    try:
        async with lip.open("/tmp/note"):
            return "opened"
    except lip.SymphonyError as error:
        return error.reason


def test_programs_are_of_the_principal_who_started_them(machine):
    anns = machine.start(whose)
    machine.run()
    with machine.acting_as("bob"):
        bobs = machine.start(pry)
    machine.run()

    assert (anns.value, bobs.value) == ("ann", "EACCES")


def test_a_killed_program_leaves_nothing(machine):
    run = machine.start(write, 400)
    machine.advance(0.02)

    machine.kill(run)
    machine.run()

    assert run.status.code == 137


def test_a_file_is_a_program_too(machine, tmp_path: Path):
    path = tmp_path / "shout.py"
    path.write_text("async def main(word: str) -> str:\n    return word.upper()\n")

    assert run_program(path, word="hi", machine=machine) == "HI"


def test_a_script_may_be_changed_half_way(machine):
    async def main() -> list[str]:
        said = []
        for _ in range(2):
            async with lip.open(text="Who?") as file:
                said.append((await file.generate(20)).text)
            await lip.sleep(1)
        return said

    machine.script("Me.")
    run = machine.start(main)
    machine.advance(0.9)
    machine.script("You.")
    machine.run()

    assert run.value == ["Me.", "You."]


def test_a_failed_tests_report_names_the_seed_and_the_last_calls():
    with Machine(seed=5, model=Script("x")) as m:
        m.start(ticks)
        m.advance(15)

        lines = m.describe().splitlines()

    assert lines[0] == "seed 5, 15 s"
    assert lines[1].endswith("ticks waits in sleep")
    assert any("sleep seconds=10.0 -> ok" in line for line in lines)
