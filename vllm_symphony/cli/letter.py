"""How a message of a channel looks (cli/letter.py): its text on a terminal, its bytes into a pipe, or a JSON line."""

from __future__ import annotations

import base64
import sys
from typing import Any

from vllm_symphony.abi.plain import plain_lines
from vllm_symphony.abi.types import Message
from vllm_symphony.cli import table
from vllm_symphony.cli.command import complain


def show(message: Message, *, as_json: bool) -> None:
    """Print it at once, with a line break at its end."""
    if as_json:
        table.line(_fields(message))
        return
    if message.missing:
        complain(f"{message.missing} messages were dropped here")
    if sys.stdout.isatty():
        print(plain_lines(message.data.decode(errors="backslashreplace")), flush=True)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(message.data + b"\n")
        sys.stdout.buffer.flush()


def _fields(message: Message) -> dict[str, Any]:
    """`text` of what is UTF-8, else `base64`."""
    try:
        content = {"text": message.data.decode()}
    except UnicodeDecodeError:
        content = {"base64": base64.b64encode(message.data).decode()}
    return {"seq": message.seq, **content, "pid": message.pid, "principal": message.principal, "missing": message.missing}
