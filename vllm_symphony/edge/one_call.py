"""RPCs that are one system call (edge/one_call.py).

    MkdirRequest -> Mkdir -- kernel --> Done -> MkdirResponse

Requests and responses have the fields of the call's arguments and result, so nothing more is to be said of them.
"""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import Message

from vllm_symphony.abi.table import CALLS
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.proto.message import read_as, to_message

M = TypeVar("M", bound=Message)


async def one_call(kernel: KernelLink, op: str, request: Any, context: Any, response: M, **beside: Any) -> M:
    """Make the system call that the request stands for; `beside`: arguments that it does not hold."""
    again = {"request_id": request.request_id} if CALLS[op].mutates else {}
    result = await kernel.call(op, read_as(CALLS[op].args, request, **beside), caller(context), **again)
    return to_message(result, response)
