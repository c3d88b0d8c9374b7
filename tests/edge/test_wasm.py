"""Programs in WebAssembly, as a user runs them: the example, ends of all kinds, and what hostile ones do to others (nothing)."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.edge.test_command_line import eventually
from tests.unit.runtime.wasm.guest import asking, command
from tests.unit.runtime.wasm.test_attacks import with_bodies

FILTER = Path(__file__).parents[2] / "examples/wasm/filter.wasm"
SPIN = "(loop (br 0))"
LINES = ["the sea is wide", "bread and butter", "ships sail", 'a "quoted" line \\ with é', "to the lighthouse"]

SAME_IN_PYTHON = """
from vllm_symphony import lip

async def main(question: str, lines: list[str]) -> list[str]:
    yes, no = [(await lip.tokenize(word, special=False))[0] for word in (" yes", " no")]
    kept = []
    async with lip.open(tokens=await lip.tokenize(question, special=False)) as asked:
        for line in lines:
            async with asked.fork() as file:
                await file.append(await lip.tokenize(f"\\nLine: {line}\\nAnswer (yes or no):", special=False))
                dist = await file.forward()
                if await dist.sample(allowed=[yes, no]) == yes:
                    kept.append(line)
    return kept
"""


@pytest.fixture(scope="module")
def sim(fresh_server, tmp_path_factory):
    server = fresh_server("--device", "sim", "--no-state")
    path = tmp_path_factory.mktemp("first") / "first.wasm"
    path.write_bytes(wat2wasm(command("")))
    assert server.run("run", str(path)).returncode == 0  # its fork server stays
    return server


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str | bytes], str]:
    """Writes a module; gives its path."""

    def write(wat: str | bytes, name: str = "guest.wasm") -> str:
        path = tmp_path / name
        path.write_bytes(wat if isinstance(wat, bytes) else wat2wasm(wat))
        return str(path)

    return write


def pids(server) -> list[int]:
    return [p["pid"] for p in json.loads(server.run("ps", "--json").stdout)]


def run_with_input(server, text: str, *words: str):
    process = server.start("run", *words, stdin=subprocess.PIPE)
    out, err = process.communicate(text, timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("question", ["Is this line about the sea?", "Is it short?", "x"])
def test_the_example_keeps_the_lines_that_a_python_program_keeps(sim, program, question):
    code, out, err = run_with_input(sim, "\n".join(LINES) + "\n\n", str(FILTER), f"--question={question}")
    same = sim.run("run", program(SAME_IN_PYTHON), "--question", question, *(f"--lines={line}" for line in LINES))

    assert (code, err) == (0, "")
    *kept, value = out.splitlines()
    assert kept == json.loads(same.stdout), same.stderr
    assert json.loads(value) == {"lines": len(LINES), "kept": len(kept)}


def test_a_module_that_is_no_text_prints_and_ends_with_its_own_code(sim, module):
    done = sim.run(
        "run", module(command("(call $print (i32.const 1024) (i32.const 6)) (call $exit (i32.const 7))", data="hello\n"))
    )

    assert (done.returncode, done.stdout) == (7, "hello\n")


def test_lists_say_that_it_is_wasm(sim, module):
    wait = asking({"op": "sleep", "args": {"seconds": 600}})
    process = sim.start("run", module(wait, "waits.wasm"))
    assert eventually(lambda: pids(sim) != [])

    (seen,) = json.loads(sim.run("ps", "--json").stdout)
    sim.run("kill", str(seen["pid"]))
    process.communicate(timeout=60)

    assert (seen["name"], seen["runtime"]) == ("waits", "wasm")
    assert process.returncode == 130


@pytest.mark.parametrize("where", ["_start", "start function", "waiting for input"])
def test_term_ends_it_wherever_it_is(sim, module, where):
    wat = {
        "_start": f'(module (func (export "_start") {SPIN}))',
        "start function": f'(module (func $f {SPIN}) (start $f) (func (export "_start")))',
        "waiting for input": command("(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))"),
    }[where]
    process = sim.start("run", module(wat), stdin=subprocess.PIPE)
    assert eventually(lambda: pids(sim) != [])

    sim.run("kill", *map(str, pids(sim)))
    process.communicate(timeout=60)

    assert process.returncode == 130


def test_a_bad_module_is_told_in_words(sim, module):
    done = sim.run("run", module('(module (import "env" "fork" (func)) (func (export "_start")))'))

    assert done.returncode == 2
    assert "guest imports env.fork: there are symphony.call" in done.stderr


def test_a_child_can_be_a_module_too(sim, module, program):
    code = Path(module(command("(call $exit (i32.const 5))"))).read_bytes()
    request = {"op": "exit", "args": {"code": 0, "value": "[1, 2]"}}
    text = json.dumps(request)
    valued = bytes(wat2wasm(command(f"(drop (call $call (i32.const 1024) (i32.const {len(text)})))", data=text)))
    source = f"""
from vllm_symphony import lip
from vllm_symphony.abi.calls import Spawn, Wait
from vllm_symphony.lip.transport import call

async def main():
    ends = []
    for code in ({code!r}, {valued!r}):
        child = await call("spawn", Spawn(code=code))
        ends.append((await call("wait", Wait(child.pid))).exit)
    return [[e.code, e.value] for e in ends]
"""

    done = sim.run("run", program(source))

    assert json.loads(done.stdout) == [[5, None], [0, "[1, 2]"]], done.stderr


# ---- hostile ones: each ends as documented, and another program runs on


TOUCH_ALL = """
  (local $i i32)
  (block (loop
    (br_if 1 (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
    (memory.fill (i32.mul (local.get $i) (i32.const 1048576)) (i32.const 1) (i32.const 1048576))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br 0)))
  (call $exit (local.get $i))
"""
LOOPS = with_bodies(b"\0" + b"\3\x40\x41\0\x0d\0\x0b" * 13_500 + b"\x0b")


@pytest.fixture
def victim(sim, program):
    """A program that says a number each 50 ms; whoever asks gets the longest pause between two."""
    source = """
from vllm_symphony import lip
async def main():
    while True:
        print("beat", flush=True)
        await lip.sleep(0.05)
"""
    process = sim.start("run", program(source))
    beats: list[float] = []

    def listen() -> None:
        for _ in process.stdout:
            beats.append(time.monotonic())

    thread = threading.Thread(target=listen)
    thread.start()
    assert eventually(lambda: len(beats) > 3)
    yield beats
    (pid,) = [p["pid"] for p in json.loads(sim.run("ps", "--json").stdout) if p["name"] == "prog"]
    sim.run("kill", "-KILL", str(pid))
    process.communicate(timeout=60)
    thread.join()


@pytest.mark.parametrize(
    ("attack", "words", "code", "said"),
    [
        ("spin", ["--limit", "cpu=1s"], 124, "cpu"),
        ("memory", ["--limit", "memory=64MiB"], 47, ""),
        ("compile bomb", ["--limit", "cpu=1s"], 124, "cpu"),  # without the limit: BadProgram after 10 s of CPU time
        ("recursion", [], 1, "call stack exhausted"),
        ("huge module", [], 1, "the most is"),
        ("forged pointer", [], 1, "outside of its memory"),
    ],
)
def test_an_attack_ends_and_others_run_on(sim, module, victim, attack, words, code, said):
    wat = {
        "spin": f'(module (func (export "_start") {SPIN}))',
        "memory": command(TOUCH_ALL),
        "compile bomb": LOOPS,
        "recursion": command("(call $f)", more="(func $f (call $f))"),
        "huge module": b"\0asm\1\0\0\0\0\x80\x80\x80\x04\1x" + bytes(8 << 20),
        "forged pointer": command("(drop (call $call (i32.const -1) (i32.const 100)))"),
    }[attack]
    before = len(victim)

    done = sim.run("run", *words, module(wat), timeout_s=60)

    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert eventually(lambda: len(victim) > before + 3)
    assert [p["name"] for p in json.loads(sim.run("ps", "--json").stdout)] == ["prog"]
