"""Calls of tools (kernel/syscall/tool.py): tools, call_tool."""

from __future__ import annotations

from vllm_symphony.abi.calls import CallTool, NoArgs, ToolResult, ToolsResult
from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine


def tools(m: Machine, call: Call, a: NoArgs) -> ToolsResult:
    raise NotSupported("tools is being built")


def call_tool(m: Machine, call: Call, a: CallTool) -> ToolResult:
    raise NotSupported("call_tool is being built")
