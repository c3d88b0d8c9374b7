"""The caller's trace, as gRPC's metadata have it (edge/trace_parent.py).

    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01

Programs and sessions that the RPC starts are spans of that trace. What is malformed is passed over (trace/context.py).
"""

from __future__ import annotations

from typing import Any

from vllm_symphony.trace.context import well_formed

HEADER = "traceparent"


def traceparent(context: Any) -> str:
    """What the caller said, "" for nothing; `context` is the RPC's grpc.aio.ServicerContext."""
    for key, value in context.invocation_metadata() or ():
        if key == HEADER:
            return well_formed(value if isinstance(value, str) else "")
    return ""
