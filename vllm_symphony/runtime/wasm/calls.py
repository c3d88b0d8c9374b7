"""The system calls as host functions (runtime/wasm/calls.py). Two are enough:

    symphony.call(ptr, len) -> i64    {"op": "forward", "args": {"fd": 3, "tokens": [1, 2]}}   at [ptr, ptr + len), JSON
                                      makes the call, waits for it; gives the length of its answer in bytes
    symphony.take(ptr)                writes that answer to ptr: {"ok": {...}}, or {"err": {"reason", "message", "values"}}

For streams, and for several calls at once:

    symphony.start(ptr, len) -> i64   makes the call, does not wait; gives its id, or minus the length of an error to take
    symphony.next(timeout_ms) -> i64  waits for what comes of any of them (below 0: as long as it takes); gives its length, or 0:
                                      {"id": 5, "part": {...}}, and last {"id": 5, "ok": {...}} or {"id": 5, "err": {...}}

A call that fails, or is none, is an answer. Only what cannot be answered ends the guest: a range outside of its memory, or `take`
without an answer. `exit` is the last call: {"op": "exit", "args": {"code": 0, "value": "JSON text"}} does not return.
Rejected: a host function per call. 70 signatures to bind in each language, and a new call would be a link error in an old server.
"""

from __future__ import annotations

import json
from typing import Any

import wasmtime

from vllm_symphony.abi.calls import Exit
from vllm_symphony.abi.table import CALLS
from vllm_symphony.errors import InvalidArgument, NoSuchCall, SymphonyError
from vllm_symphony.runtime.wasm.as_json import to_call, to_json
from vllm_symphony.runtime.wasm.memory import GuestFault, Memory
from vllm_symphony.runtime.wasm.transport import BlockingTransport

MODULE = "symphony"
FUNCTIONS = ("call", "take", "start", "next")
_MAX_WAIT_S = 1e6


class Exited(BaseException):
    """The guest ended itself."""

    def __init__(self, end: Exit) -> None:
        super().__init__()
        self.end = end


class Calls:
    """One guest's host functions. Holds the answer that it has not taken yet."""

    def __init__(self, transport: BlockingTransport) -> None:
        self._transport = transport
        self._answer: bytes | None = None

    def define(self, linker: wasmtime.Linker) -> None:
        i32, i64 = wasmtime.ValType.i32(), wasmtime.ValType.i64()
        linker.define_func(MODULE, "call", wasmtime.FuncType([i32, i32], [i64]), self._call, access_caller=True)
        linker.define_func(MODULE, "take", wasmtime.FuncType([i32], []), self._take, access_caller=True)
        linker.define_func(MODULE, "start", wasmtime.FuncType([i32, i32], [i64]), self._start, access_caller=True)
        linker.define_func(MODULE, "next", wasmtime.FuncType([i64], [i64]), self._next, access_caller=True)

    def _call(self, caller: wasmtime.Caller, at: int, size: int) -> int:
        request = Memory(caller).read(at, size)
        try:
            op, args, tid = _read(request)
            return self._keep({"ok": to_json(self._transport.call(op, args, tid=tid))})
        except (SymphonyError, RecursionError) as e:
            return self._keep({"err": _error(e)})

    def _start(self, caller: wasmtime.Caller, at: int, size: int) -> int:
        request = Memory(caller).read(at, size)
        try:
            op, args, tid = _read(request)
            return self._transport.begin(op, args, tid=tid)
        except (SymphonyError, RecursionError) as e:
            return -self._keep({"err": _error(e)})

    def _next(self, caller: wasmtime.Caller, timeout_ms: int) -> int:
        try:
            heard = self._transport.next(None if timeout_ms < 0 else min(timeout_ms / 1000, _MAX_WAIT_S))
        except SymphonyError as e:
            return self._keep({"err": _error(e)})
        if heard is None:
            return 0
        if heard.error is not None:
            return self._keep({"id": heard.id, "err": _error(heard.error)})
        if heard.part is not None:
            return self._keep({"id": heard.id, "part": to_json(heard.part)})
        return self._keep({"id": heard.id, "ok": to_json(heard.result)})

    def _keep(self, answer: dict[str, Any]) -> int:
        """Until the guest takes it. Its length."""
        self._answer = json.dumps(answer, allow_nan=False).encode()
        return len(self._answer)

    def _take(self, caller: wasmtime.Caller, at: int) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            raise GuestFault("symphony.take: there is no answer to take")
        Memory(caller).write(at, answer)


def _read(request: bytes) -> tuple[str, dict[str, Any], int]:
    """The call with its arguments as the codec wants them, and its thread. Raises Exited when it is `exit`."""
    try:
        said = json.loads(request)
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(f"the call is no JSON: {e}") from None
    if not isinstance(said, dict) or not isinstance(said.get("op"), str):
        raise InvalidArgument('a call is a JSON object with the name of the call as "op"')
    args, tid = said.get("args", {}), said.get("tid", 0)
    if unknown := [name for name in said if name not in ("op", "args", "tid")]:
        raise InvalidArgument(f'a call has "op", "args" and "tid", not {unknown[0][:64]!r}')
    if not isinstance(args, dict) or not isinstance(tid, int):
        raise InvalidArgument('"args" is a JSON object with the arguments by name, "tid" a number')
    op, spec = said["op"], CALLS.get(said["op"])
    if op == "exit":
        raise Exited(_exit(args))
    if spec is None:
        raise NoSuchCall(f"no such call: {op[:64]}", op=op[:64])
    return op, to_call(spec.args, args), tid


def _exit(args: dict[str, Any]) -> Exit:
    code, value = args.get("code", 0), args.get("value")
    if type(code) is not int or (value is not None and not isinstance(value, str)) or args.keys() - {"code", "value"}:
        raise InvalidArgument('exit: "code" is a number, "value" JSON text')
    try:
        json.loads("null" if value is None else value)
    except (ValueError, RecursionError) as e:
        raise InvalidArgument(f"exit: value is no JSON: {e}") from None
    return Exit(code & 0xFF, value=value)


def _error(error: SymphonyError | RecursionError) -> dict[str, Any]:
    if isinstance(error, RecursionError):
        error = InvalidArgument("the arguments are nested too deeply")
    said: dict[str, Any] = {"reason": error.reason, "message": error.message, "values": to_json(dict(error.values))}
    if error.retry_after_s is not None:
        said["retry_after_s"] = error.retry_after_s
    return said
