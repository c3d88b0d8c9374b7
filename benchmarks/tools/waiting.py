"""Tools that take a known time and do nothing: one for each name in the traces (simulate/workload.py)."""

import asyncio
from collections.abc import Awaitable, Callable

from vllm_symphony.tools import tool

NAMES = (
    "search", "read", "grep", "test", "build", "user", "function", "calculator", "answer", "world", "chat", "image", "speech",
)  # fmt: skip


def waiting(name: str) -> Callable[..., Awaitable[str]]:
    @tool(name=name, description="Answers after so many seconds.")
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    return wait


for _name in NAMES:
    globals()[_name] = waiting(_name)
