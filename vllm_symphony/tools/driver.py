"""What a driver of tools is to the tool host (tools/driver.py).

    host --Call--> Tool.run --> ToolResult            data: also when the tool says that it failed (is_error)
                            --> SymphonyError         the machinery: no connection, too late, not allowed
                            --> Transient             either of these, and another try may mend it

Whether there is another try is not the driver's to say: only a tool that the operator declared idempotent is called twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import ToolInfo
from vllm_symphony.errors import BrokenPipe, SymphonyError
from vllm_symphony.tools.config import Bounds

MAX_TRIES = 3
FIRST_DELAY_S = 0.2


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool. `deadline_s`: by the loop's clock."""

    principal: str
    arguments: Mapping[str, Any]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, for whoever asked for it. `schema` is what arguments are checked against."""

    info: ToolInfo
    schema: Mapping[str, Any]
    bounds: Bounds
    run: Callable[[Call], Awaitable[ToolResult]]


class Transient(Exception):
    """A failure that may be over soon. `outcome` is what the caller gets if nobody tries again."""

    def __init__(self, outcome: ToolResult | SymphonyError, retry_after_s: float | None = None) -> None:
        super().__init__()
        self.outcome = outcome
        self.retry_after_s = retry_after_s

    def error(self) -> SymphonyError:
        """The outcome, for those who have no use for a result."""
        return self.outcome if isinstance(self.outcome, SymphonyError) else BrokenPipe(self.outcome.content[:300])


class Driver(Protocol):
    """Some tools of the operator's file."""

    async def start(self, changed: Callable[[str], None]) -> None:
        """Get ready; returns when `tools` is worth looking at. `changed` hears for whom it is so again ("": everybody)."""

    def tools(self, principal: str) -> Sequence[Tool]:
        """What it offers a principal, as far as is known."""

    async def find(self, principal: str, name: str) -> Tool | None:
        """The tool of that name; may ask a server. Raises SymphonyError when that cannot be known now."""

    async def close(self) -> None:
        """Leave nothing."""


async def run(tool: Tool, call: Call, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> ToolResult:
    """Call it, again where it is idempotent and time is left. Raises SymphonyError."""
    clock = asyncio.get_running_loop().time
    for num_tries in range(1, MAX_TRIES + 1):
        try:
            return replace(await tool.run(call), num_tries=num_tries)
        except Transient as failure:
            delay_s = max(FIRST_DELAY_S * 4 ** (num_tries - 1), failure.retry_after_s or 0.0)
            if not tool.info.idempotent or num_tries == MAX_TRIES or clock() + delay_s >= call.deadline_s:
                if isinstance(failure.outcome, SymphonyError):
                    raise failure.outcome from None
                return replace(failure.outcome, num_tries=num_tries)
        await sleep(delay_s)
    raise AssertionError("the last try returns or raises")


def cut(text: str, limit: int) -> tuple[str, bool]:
    """At most `limit` bytes of it as UTF-8, and whether that is less."""
    data = text.encode(errors="replace")
    return (text, False) if len(data) <= limit else (data[:limit].decode(errors="ignore"), True)
