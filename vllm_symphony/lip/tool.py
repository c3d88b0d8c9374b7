"""Tools: what a program may call outside of the machine (lip/tool.py).

    tools = await lip.tools()                                       as in the OpenAI API: straight into `render_chat(tools=...)`
    said = (await chat.generate(300)).text
    asked = await lip.parse_tools(said, tools=tools)                in the model's own format
    messages += [lip.tool_request(asked), *await lip.run_tools(asked)]

    result = await lip.call_tool("weather", city="Lima")            by hand: `result.content` is text

What a tool gave is data that somebody else wrote. Show it to the model as a tool's message; never run it, and never take from it
what to do next. A guide: docs/tools.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from vllm_symphony.abi.calls import CallTool, NoArgs, ToolResult
from vllm_symphony.errors import (
    AccessDenied,
    BrokenPipe,
    DataCorrupt,
    InvalidArgument,
    NoSuchFile,
    SymphonyError,
    TimedOut,
    WouldBlock,
)
from vllm_symphony.lip import transport
from vllm_symphony.lip.text import to_json

_FOR_THE_MODEL = (NoSuchFile, InvalidArgument, AccessDenied, BrokenPipe, TimedOut, WouldBlock, DataCorrupt)


async def tools(*globs: str) -> list[dict[str, Any]]:
    """Schemas of the tools that the program may call, as in the OpenAI API; with `globs` those whose names match one of them."""
    found = (await transport.call("tools", NoArgs())).tools
    return [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": json.loads(t.schema)}}
        for t in found
        if not globs or any(fnmatchcase(t.name, glob) for glob in globs)
    ]


async def call_tool(
    name: str, args: Mapping[str, Any] | None = None, /, *, timeout_s: float | None = None, **more: Any
) -> ToolResult:
    """Call a tool and wait for what it gives; arguments as a mapping, by name, or both. Meanwhile its files may be demoted.

    A result with `is_error` is the tool's own word that it failed. `timeout_s` shortens the tool's own limit.

    Raises:
        NoSuchFile: there is no such tool, or the program may not call it.
        InvalidArgument: the arguments do not fit its schema.
        TimedOut, BrokenPipe: it was too late, or cannot be reached.
        AccessDenied: it would go where the operator does not let it.
        QuotaExceeded: the program's limit of tool calls is used up.
    """
    text = to_json({**(args or {}), **more})
    result: ToolResult = await transport.call("call_tool", CallTool(name, text, timeout_s))
    return result


async def run_tools(asked: Mapping[str, Any], *, timeout_s: float | None = None) -> list[dict[str, Any]]:
    """Run all calls that `parse_tools` found, at once; a message of role `tool` for each, in their order.

    What the model can mend or get around (a wrong name, wrong arguments, a tool that cannot be reached) becomes a message too.

    Raises:
        QuotaExceeded, Interrupted, DeviceLost: what is the program's to deal with. The other calls are cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_run(call, timeout_s)) for call in asked["tool_calls"]]
    except* SymphonyError as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def tool_request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The model's message with the calls that `parse_tools` found, for the conversation."""
    calls = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": _arguments(call) or {}}}
        for call in asked["tool_calls"]
    ]
    return {"role": "assistant", "content": asked.get("content") or "", "tool_calls": calls}


async def _run(call: Mapping[str, Any], timeout_s: float | None) -> dict[str, Any]:
    arguments = _arguments(call)
    try:
        if arguments is None:
            raise InvalidArgument(f"the arguments are no JSON object: {str(call['arguments'])[:200]}")
        result = await call_tool(call["name"], arguments, timeout_s=timeout_s)
    except _FOR_THE_MODEL as error:
        text = f"error: {error.message}"
    else:
        text = f"error: {result.content}" if result.is_error else result.content
    return {"role": "tool", "tool_call_id": call["id"], "name": call["name"], "content": text}


def _arguments(call: Mapping[str, Any]) -> dict[str, Any] | None:
    """A model writes them, so they may be anything."""
    value = call["arguments"]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _first(group: BaseExceptionGroup[SymphonyError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
