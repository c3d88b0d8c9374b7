"""Time, chance and output (lip/world.py). They are system calls too: a program that takes them from here can be replayed."""

from __future__ import annotations

from vllm_symphony.abi.calls import Emit, NoArgs, Random, Sleep
from vllm_symphony.lip import transport
from vllm_symphony.lip.text import to_json


async def now() -> float:
    """Seconds since the epoch."""
    seconds: float = (await transport.call("now", NoArgs())).seconds
    return seconds


async def monotonic() -> float:
    """Seconds since the kernel started; never goes back."""
    seconds: float = (await transport.call("monotonic", NoArgs())).seconds
    return seconds


async def sleep(seconds: float) -> None:
    """Wait, and let the process's other threads run."""
    await transport.call("sleep", Sleep(seconds))


async def random() -> float:
    """A float in [0, 1), 53 bits of the process's own source."""
    data: bytes = (await transport.call("random", Random(8))).data
    return (int.from_bytes(data, "little") >> 11) * 2.0**-53


def emit(value: object) -> None:
    """Show a JSON value to whoever runs the program, at once and in order. InvalidArgument when it is none. Never waits."""
    transport.post("emit", Emit(to_json(value)))
