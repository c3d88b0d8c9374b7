"""Random modules: whatever one is or calls, its run ends with an exit status, and nothing of ours breaks."""

import random
import threading
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from tests.counts import count, random_for
from tests.unit.runtime.wasm.guest import Guest
from vllm_symphony.runtime.wasm import wasi

FILTER = Path(__file__).parents[4] / "examples/wasm/filter.wasm"
CALLS = {"call": ("ii", "I"), "take": ("i", ""), "start": ("ii", "I"), "next": ("I", "I")}
KINDS = {"i": "i32", "I": "i64"}
ODD = (0, 1, 2, 3, 8, 64, 1024, 65528, 65535, 65536, 65537, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 32) - 8)
RUNS = range(count(12, 300))


def call(draw: random.Random, module: str, name: str, params: str, result: str) -> str:
    """A call with odd arguments, its result dropped. `next` never waits for ever."""
    words = []
    for kind in params:
        value = draw.choice(ODD) if draw.random() < 0.8 else draw.getrandbits(32)
        words.append(f"({KINDS[kind]}.const {0 if name == 'next' else value})")
    made = f"(call ${name} {' '.join(words)})"
    return f"(drop {made})" if result else made


def caller(draw: random.Random) -> bytes:
    """A module that makes 20 random calls over memory full of random bytes."""
    functions = [("symphony", name, *kinds) for name, kinds in CALLS.items()]
    functions += [(wasi.MODULE, name, kinds, "i") for name, kinds in wasi.SIGNATURES.items() if name != "proc_exit"]
    chosen = draw.sample(functions, 8)
    imports = ""
    for module, name, params, result in chosen:
        kinds = " ".join(KINDS[k] for k in params)
        imports += f'(import "{module}" "{name}" (func ${name} (param {kinds}) {f"(result {KINDS[result]})" if result else ""}))\n'
    body = " ".join(call(draw, *draw.choice(chosen)) for _ in range(20))
    data = "".join(f"\\{draw.getrandbits(8):02x}" for _ in range(512))
    texts = '"{\\22op\\22: \\22ping\\22}"'
    return bytes(
        wat2wasm(
            f'(module {imports} (memory (export "memory") 1) (data (i32.const 0) "{data}") (data (i32.const 1024) {texts})'
            f' (func (export "_start") {body}))'
        )
    )


def ended(code: bytes) -> int:
    """The exit code; TERM ends it if it spins."""
    guest = Guest()
    timer = threading.Timer(5.0, guest.term)
    timer.start()
    try:
        return guest.run(code).code
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("run", RUNS)
def test_random_calls_end_with_a_status(run: int):
    assert ended(caller(random_for(f"wasm calls {run}"))) in (0, 1, 130)


@pytest.mark.parametrize("run", RUNS)
def test_a_broken_module_ends_with_a_status(run: int):
    draw = random_for(f"wasm module {run}")
    code = bytearray(FILTER.read_bytes())
    for _ in range(draw.randrange(1, 6)):
        code[draw.randrange(8, len(code))] = draw.getrandbits(8)

    assert 0 <= ended(bytes(code)) <= 255
