"""System calls that Python does not have, by the C library (runtime/sandbox/libc.py)."""

from __future__ import annotations

import ctypes
import os

from vllm_symphony.runtime.sandbox.syscall_table import here

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_LONG = ctypes.c_long


def syscall(name: str, *args: int | bytes | None) -> int:
    """Make a system call; bytes are passed by address. Raises OSError; ENOSYS on an architecture that is not known."""
    architecture = here()
    if architecture is None or name not in architecture.numbers:
        raise OSError(38, f"{name}: no number for it on this machine")
    return _checked(name, _libc.syscall(_LONG(architecture.numbers[name]), *(_argument(a) for a in args)))


def prctl(option: int, *args: int) -> int:
    """prctl(2). Raises OSError."""
    padded = (*args, 0, 0, 0, 0)[:4]
    return _checked("prctl", _libc.prctl(option, *(ctypes.c_ulong(a) for a in padded)))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). Raises OSError."""
    text = data.encode() if data is not None else None
    name = kind.encode() if kind is not None else None
    _checked(f"mount {target}", _libc.mount(os.fsencode(source), os.fsencode(target), name, ctypes.c_ulong(flags), text))


def sethostname(name: str) -> None:
    """sethostname(2). Raises OSError."""
    _checked("sethostname", _libc.sethostname(name.encode(), len(name)))


def mallopt(parameter: int, value: int) -> None:
    """Set up the C library's allocator; nothing happens where it has none of these (musl)."""
    function = getattr(_libc, "mallopt", None)
    if function is not None:
        function(parameter, value)


def _argument(value: int | bytes | None) -> object:
    return _LONG(value) if isinstance(value, int) else value


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
