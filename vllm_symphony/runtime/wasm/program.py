"""A wasm program, from its bytes to its exit (runtime/wasm/program.py).

compile -> limits -> link -> instantiate (its start function runs) -> `_start` -> Exit

0        `_start` returned             1   it trapped, or broke a rule of a host function: message and backtrace on stderr
n        `proc_exit(n)`, or `exit`     2   it is no module, is too large, imports what we have not, or wants too much memory
130      TERM: the epoch is past, so its next loop or call traps
"""

from __future__ import annotations

import json
import sys
from typing import Any

import wasmtime

from vllm_symphony.abi.calls import Exit
from vllm_symphony.abi.codec import Program
from vllm_symphony.errors import BadProgram, SymphonyError
from vllm_symphony.runtime.wasm import calls, module, wasi
from vllm_symphony.runtime.wasm.memory import GuestFault
from vllm_symphony.runtime.wasm.transport import BlockingTransport, Terminated

ENTRY = "_start"
DEFAULT_MEMORY_BYTES = 256 << 20
MAX_TABLE_ELEMENTS = 100_000
MAX_TABLES, MAX_MEMORIES = 8, 1
_MAX_ERROR_CHARS = 1000
_SMALLEST = (  # (module (memory (export "memory") 1) (func (export "_start")))
    b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\5\3\1\0\1\7\x13\2\6memory\2\0\6_start\0\0\n\4\1\2\0\x0b"
)


def run(program: Program, transport: BlockingTransport, files: tuple[int, int, int] = (0, 1, 2)) -> Exit:
    """Run the module to its end; what a user should see of a failure goes to stderr. Starts the transport.

    `files`: the fds of its stdin, stdout and stderr.
    """
    name = program.name or "<program>"
    memory_bytes = guest_bytes(program.memory_bytes or DEFAULT_MEMORY_BYTES)
    engine = module.make_engine(memory_bytes)
    try:
        transport.start(on_term=engine.increment_epoch)
        module.check_module(program.code, name)
        compiled = module.compile_module(engine, program.code, name, transport.wait_for)
        wanted = _imports(compiled, name)
        args = _arguments(program)
        store = wasmtime.Store(engine)
        store.set_epoch_deadline(1)
        store.set_limits(memory_bytes, MAX_TABLE_ELEMENTS, 1, MAX_TABLES, MAX_MEMORIES)
        linker = wasmtime.Linker(engine)
        calls.Calls(transport).define(linker)
        system = wasi.Wasi(transport, _argv(name, args), {"SYMPHONY_ARGS": json.dumps(args)}, program.seed, files)
        system.define(linker, wanted)
        return _enter(store, linker, compiled, name)
    except Terminated:
        return _cancelled()
    except BadProgram as e:
        return _told(Exit(2, error=e.message, reason="program"), e.message)
    except (GuestFault, SymphonyError) as e:
        return _told(Exit(1, error=str(e), reason="exception"), f"{name}: {e}")


def rehearse() -> None:
    """Compile and run the smallest command: a process that waits for a program has then touched what every program touches."""
    engine = module.make_engine(guest_bytes(DEFAULT_MEMORY_BYTES))
    store = wasmtime.Store(engine)
    store.set_epoch_deadline(1)
    start = wasmtime.Linker(engine).instantiate(store, wasmtime.Module(engine, _SMALLEST)).exports(store)[ENTRY]
    assert isinstance(start, wasmtime.Func)
    start(store)


def guest_bytes(memory_bytes: int) -> int:
    """How large a guest's memory may be, of what its process may have: the rest is for the compiler and us."""
    return memory_bytes // 4 * 3


def _enter(store: wasmtime.Store, linker: wasmtime.Linker, compiled: wasmtime.Module, name: str) -> Exit:
    """Run the module's code. Raises BadProgram: it cannot be instantiated, or has nothing to run."""
    try:
        exports = linker.instantiate(store, compiled).exports(store)
        entry = exports.get(ENTRY)
        if not isinstance(entry, wasmtime.Func):
            raise BadProgram(f"{name} exports no function {ENTRY}: it is no command of WASI (a library?)")
        if entry.type(store).params or entry.type(store).results:
            raise BadProgram(f"{name}: its function {ENTRY} takes arguments or gives results")
        entry(store)
    except calls.Exited as e:
        return e.end
    except wasmtime.Trap as e:
        if e.trap_code == wasmtime.TrapCode.INTERRUPT:
            return _cancelled()
        cause, backtrace = module.explain(e)
        return _told(Exit(1, error=cause, reason="exception"), f"{name}: {cause}\n{backtrace}")
    except MemoryError:
        return _told(Exit(1, error="out of memory", reason="exception"), f"{name}: out of memory")
    except wasmtime.WasmtimeError as e:
        raise BadProgram(f"{name} cannot be instantiated: {module.explain(e)[0]}") from None
    return Exit(0)


def _imports(compiled: wasmtime.Module, name: str) -> set[str]:
    """The functions of WASI that it wants. Raises BadProgram when it wants what there is not."""
    ours = {(calls.MODULE, f) for f in calls.FUNCTIONS} | {(wasi.MODULE, f) for f in wasi.SIGNATURES}
    wanted = {(i.module, i.name or "") for i in compiled.imports}
    if unknown := sorted(wanted - ours):
        shown = ", ".join(".".join(f) for f in unknown[:8]) + (" ..." if len(unknown) > 8 else "")
        there = ", ".join(f"{calls.MODULE}.{function}" for function in calls.FUNCTIONS)
        raise BadProgram(f"{name} imports {shown}: there are {there} and those of {wasi.MODULE}")
    return {f for module_name, f in wanted if module_name == wasi.MODULE}


def _arguments(program: Program) -> dict[str, Any]:
    try:
        args = json.loads(program.args or "{}")
    except (ValueError, RecursionError) as e:
        raise BadProgram(f"arguments are no JSON: {e}") from None
    if not isinstance(args, dict):
        raise BadProgram(f"arguments are no JSON object but {type(args).__name__}")
    return args


def _argv(name: str, args: dict[str, Any]) -> list[str]:
    """`--name=value`: texts as they are, everything else as JSON."""
    return [name, *(f"--{k}={v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)}" for k, v in args.items())]


def _cancelled() -> Exit:
    return Exit(130, error="cancelled", reason="cancelled")


def _told(end: Exit, text: str) -> Exit:
    print(text.rstrip(), file=sys.stderr)
    return Exit(end.code, error=(end.error or "")[:_MAX_ERROR_CHARS], reason=end.reason)
