"""WASI preview 1, as much of it as a filter needs (runtime/wasm/wasi.py).

    stdin, stdout, stderr     fds 0, 1, 2 of the program's process; reads and writes end at TERM
    args, environment         ["name", "--key=value", ...] and what the runtime gives
    clock, random             the machine's clocks; random bytes from the process's own seed, so that a replay draws the same
    sleep                     `poll_oneoff`, as the system call `sleep`

There is no file system and no network: no directory is open, so every path is EBADF, as the standard asks. All functions of
the standard are there, so that any module links. stdout says that it is a terminal: then the C library shows each line at once.
Ours rather than wasmtime's: that one starts a thread pool, blocks where TERM cannot reach it, and opens more than it must.
Source: https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md
"""

from __future__ import annotations

import errno
import os
import random
import select
import struct
import time
from collections.abc import Iterable, Mapping, Sequence

import wasmtime

from vllm_symphony.abi.calls import Exit as ExitCall
from vllm_symphony.abi.calls import Sleep
from vllm_symphony.errors import SymphonyError
from vllm_symphony.runtime.wasm.calls import Exited
from vllm_symphony.runtime.wasm.memory import Memory
from vllm_symphony.runtime.wasm.transport import BlockingTransport

MODULE = "wasi_snapshot_preview1"
# parameters of each function: i is i32, I is i64; all give an errno, `proc_exit` nothing
SIGNATURES: Mapping[str, str] = {
    "args_get": "ii", "args_sizes_get": "ii", "environ_get": "ii", "environ_sizes_get": "ii", "clock_res_get": "ii",
    "clock_time_get": "iIi", "fd_advise": "iIIi", "fd_allocate": "iII", "fd_close": "i", "fd_datasync": "i", "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii", "fd_fdstat_set_rights": "iII", "fd_filestat_get": "ii", "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi", "fd_pread": "iiiIi", "fd_prestat_get": "ii", "fd_prestat_dir_name": "iii",
    "fd_pwrite": "iiiIi", "fd_read": "iiii", "fd_readdir": "iiiIi", "fd_renumber": "ii", "fd_seek": "iIii", "fd_sync": "i",
    "fd_tell": "ii", "fd_write": "iiii", "path_create_directory": "iii", "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi", "path_link": "iiiiiii", "path_open": "iiiiiIIii", "path_readlink": "iiiiii",
    "path_remove_directory": "iii", "path_rename": "iiiiii", "path_symlink": "iiiii", "path_unlink_file": "iii",
    "poll_oneoff": "iiii", "proc_exit": "i", "proc_raise": "i", "random_get": "ii", "sched_yield": "", "sock_accept": "iii",
    "sock_recv": "iiiiii", "sock_send": "iiiii", "sock_shutdown": "ii",
}  # fmt: skip

OK, BADF, INVAL, IO, NOSYS, PIPE, SPIPE = 0, 8, 28, 29, 52, 64, 70
_CHARACTER_DEVICE = 2
_RIGHT_READ, _RIGHT_WRITE, _RIGHT_POLL = 1 << 1, 1 << 6, 1 << 27
_MAX_VECTORS = 1024
_MAX_READ = 1 << 20
_MAX_RANDOM = 1 << 20
_REALTIME, _MONOTONIC = 0, 1
_SUBSCRIPTION, _EVENT = 48, 32
_CLOCK, _FD_READ, _FD_WRITE = 0, 1, 2
_ABSOLUTE = 1


class Wasi:
    """One guest's WASI. `files`: the system's fds that are its stdin, stdout and stderr."""

    def __init__(
        self,
        transport: BlockingTransport,
        argv: Sequence[str],
        env: Mapping[str, str],
        seed: int,
        files: tuple[int, int, int] = (0, 1, 2),
    ) -> None:
        self._transport = transport
        self._argv = [_text(word) for word in argv]
        self._env = [_text(f"{name}={value}") for name, value in env.items()]
        self._random = random.Random(seed)
        self._files: dict[int, int] = dict(enumerate(files))

    def define(self, linker: wasmtime.Linker, names: Iterable[str]) -> None:
        """Those that the module imports: all of them would take longer than the rest of its start."""
        kinds = {"i": wasmtime.ValType.i32, "I": wasmtime.ValType.i64}
        for name in names:
            signature = SIGNATURES[name]
            results = [] if name == "proc_exit" else [wasmtime.ValType.i32()]
            kind = wasmtime.FuncType([kinds[k]() for k in signature], results)
            linker.define_func(MODULE, name, kind, getattr(self, f"_{name}", _refuse), access_caller=True)

    # ---- arguments and environment

    def _args_sizes_get(self, caller: wasmtime.Caller, count: int, size: int) -> int:
        return _write_sizes(caller, self._argv, count, size)

    def _args_get(self, caller: wasmtime.Caller, pointers: int, texts: int) -> int:
        return _write_texts(caller, self._argv, pointers, texts)

    def _environ_sizes_get(self, caller: wasmtime.Caller, count: int, size: int) -> int:
        return _write_sizes(caller, self._env, count, size)

    def _environ_get(self, caller: wasmtime.Caller, pointers: int, texts: int) -> int:
        return _write_texts(caller, self._env, pointers, texts)

    # ---- files

    def _fd_read(self, caller: wasmtime.Caller, fd: int, vectors: int, count: int, result: int) -> int:
        if fd not in self._files or fd != 0:
            return BADF
        memory, room = Memory(caller), _vectors(caller, vectors, count)
        if room is None:
            return INVAL
        wanted = min(sum(size for _, size in room), _MAX_READ)
        self._transport.wait_for(self._files[fd], select.POLLIN)
        try:
            data = os.read(self._files[fd], wanted)
        except OSError:
            return IO
        memory.write_u32(result, len(data))
        for at, size in room:
            memory.write(at, data[:size])
            data = data[size:]
        return OK

    def _fd_write(self, caller: wasmtime.Caller, fd: int, vectors: int, count: int, result: int) -> int:
        if fd not in self._files or fd == 0:
            return BADF
        memory, texts = Memory(caller), _vectors(caller, vectors, count)
        if texts is None:
            return INVAL
        num_bytes = 0
        for at, size in texts:
            try:
                num_bytes += self._print(self._files[fd], memory.read(at, size))
            except OSError as e:
                return PIPE if e.errno == errno.EPIPE else IO
        memory.write_u32(result, num_bytes)
        return OK

    def _print(self, fd: int, data: bytes) -> int:
        """All of it, in pieces that a pipe which is ready takes whole: TERM ends a program that waits for its reader too."""
        for start in range(0, len(data), select.PIPE_BUF):
            self._transport.wait_for(fd, select.POLLOUT)
            os.write(fd, data[start : start + select.PIPE_BUF])
        return len(data)

    def _fd_fdstat_get(self, caller: wasmtime.Caller, fd: int, result: int) -> int:
        if fd not in self._files:
            return BADF
        right = _RIGHT_READ if fd == 0 else _RIGHT_WRITE
        Memory(caller).write(result, struct.pack("<BxHxxxxQQ", _CHARACTER_DEVICE, 0, right | _RIGHT_POLL, 0))
        return OK

    def _fd_filestat_get(self, caller: wasmtime.Caller, fd: int, result: int) -> int:
        if fd not in self._files:
            return BADF
        Memory(caller).write(result, struct.pack("<QQB7xQQQQQ", 0, fd, _CHARACTER_DEVICE, 1, 0, 0, 0, 0))
        return OK

    def _fd_close(self, caller: wasmtime.Caller, fd: int) -> int:
        return BADF if self._files.pop(fd, None) is None else OK

    def _fd_seek(self, caller: wasmtime.Caller, fd: int, offset: int, whence: int, result: int) -> int:
        return SPIPE if fd in self._files else BADF

    def _fd_tell(self, caller: wasmtime.Caller, fd: int, result: int) -> int:
        return SPIPE if fd in self._files else BADF

    def _fd_fdstat_set_flags(self, caller: wasmtime.Caller, fd: int, flags: int) -> int:
        return NOSYS if fd in self._files else BADF

    # ---- time, chance, end

    def _clock_res_get(self, caller: wasmtime.Caller, clock: int, result: int) -> int:
        if clock not in (_REALTIME, _MONOTONIC):
            return INVAL
        Memory(caller).write_u64(result, 1000)
        return OK

    def _clock_time_get(self, caller: wasmtime.Caller, clock: int, precision: int, result: int) -> int:
        if clock not in (_REALTIME, _MONOTONIC):
            return INVAL
        Memory(caller).write_u64(result, _now_ns(clock))
        return OK

    def _random_get(self, caller: wasmtime.Caller, at: int, size: int) -> int:
        size &= 0xFFFF_FFFF
        if size > _MAX_RANDOM:
            return INVAL
        Memory(caller).write(at, self._random.randbytes(size))
        return OK

    def _sched_yield(self, caller: wasmtime.Caller) -> int:
        os.sched_yield()
        return OK

    def _proc_exit(self, caller: wasmtime.Caller, code: int) -> None:
        raise Exited(ExitCall(code & 0xFF))

    def _poll_oneoff(self, caller: wasmtime.Caller, subscriptions: int, events: int, count: int, result: int) -> int:
        count &= 0xFFFF_FFFF
        if not 0 < count <= _MAX_VECTORS:
            return INVAL
        memory = Memory(caller)
        asked = [_Subscription(memory.read(subscriptions + i * _SUBSCRIPTION, _SUBSCRIPTION)) for i in range(count)]
        try:
            ready = self._ready(asked)
        except SymphonyError:  # of the call `sleep`
            return IO
        memory = Memory(caller)
        memory.write_u32(result, len(ready))
        memory.write(events, b"".join(s.event(fd_ok=s.fd in self._files) for s in ready))
        return OK

    def _ready(self, asked: list[_Subscription]) -> list[_Subscription]:
        """Those that have happened; waits until one has."""
        now = [s for s in asked if s.kind != _CLOCK and (s.kind != _FD_READ or s.fd != 0 or s.fd not in self._files)]
        reads = [s for s in asked if s.kind == _FD_READ and s not in now]
        clocks = sorted((s for s in asked if s.kind == _CLOCK), key=_Subscription.left_s)
        timeout_s = 0.0 if now else clocks[0].left_s() if clocks else None
        if reads:
            now += reads if self._transport.wait_for(self._files[0], select.POLLIN, timeout_s) else []
        elif timeout_s:
            self._transport.call("sleep", Sleep(timeout_s))
        return now or clocks[:1]


class _Subscription:
    """What `poll_oneoff` waits for."""

    __slots__ = ("_clock", "_until_ns", "_userdata", "fd", "kind")

    def __init__(self, data: bytes) -> None:
        self._userdata, self.kind, self.fd = struct.unpack_from("<QB7xI", data)
        self._clock, timeout_ns, _, flags = struct.unpack_from("<I4xQQH", data, 16)
        self._until_ns = timeout_ns if flags & _ABSOLUTE else _now_ns(self._clock) + timeout_ns

    def left_s(self) -> float:
        left_ns: int = max(0, self._until_ns - _now_ns(self._clock))
        return left_ns / 1e9

    def event(self, *, fd_ok: bool) -> bytes:
        error = OK if self.kind == _CLOCK or fd_ok else BADF
        return struct.pack("<QHBxxxxxQHxxxxxx", self._userdata, error, self.kind, 1, 0)


def _refuse(caller: wasmtime.Caller, *args: int) -> int:
    """All of files, directories and sockets that a guest here cannot have."""
    return BADF


def _vectors(caller: wasmtime.Caller, at: int, count: int) -> list[tuple[int, int]] | None:
    """The buffers of a read or write: addresses and sizes."""
    count &= 0xFFFF_FFFF
    if count > _MAX_VECTORS:
        return None
    words = Memory(caller).read_u32s(at, 2 * count)
    return list(zip(words[::2], words[1::2], strict=True))


def _write_sizes(caller: wasmtime.Caller, texts: list[bytes], count: int, size: int) -> int:
    memory = Memory(caller)
    memory.write_u32(count, len(texts))
    memory.write_u32(size, sum(map(len, texts)))
    return OK


def _write_texts(caller: wasmtime.Caller, texts: list[bytes], pointers: int, at: int) -> int:
    memory = Memory(caller)
    for i, text in enumerate(texts):
        memory.write_u32(pointers + 4 * i, at)
        memory.write(at, text)
        at += len(text)
    return OK


def _text(word: str) -> bytes:
    """With its end. A null inside would end it early."""
    return word.replace("\0", "").encode("utf-8", "surrogatepass") + b"\0"


def _now_ns(clock: int) -> int:
    return time.time_ns() if clock == _REALTIME else time.monotonic_ns()
