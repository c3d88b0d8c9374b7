"""Which function answers which call (kernel/syscall/table.py).

A function takes (machine, call, arguments) and gives the result at once, or None when `call.pending` will. The table covers the
ABI's `CALLS` exactly; a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import clock, file, forward, generate, process, row, text, view, why

Syscall = Callable[[Machine, Call, Any], Any]

SYSCALLS: Mapping[str, Syscall] = {
    "hello": process.hello,
    "keep_alive": process.keep_alive,
    "cancel": process.cancel,
    "open": file.open_,
    "close": file.close,
    "dup": file.dup,
    "fork": file.fork,
    "truncate": file.truncate,
    "append": file.append,
    "read": file.read,
    "link": file.link,
    "unlink": file.unlink,
    "rename": file.rename,
    "stat": file.stat,
    "list": file.list_,
    "forward": forward.forward,
    "forward_many": forward.forward_many,
    "sample": row.sample,
    "logits": row.logits,
    "generate": generate.generate,
    "tokenize": text.text,
    "detokenize": text.text,
    "render_chat": text.text,
    "parse_tools": text.text,
    "model_info": view.model_info,
    "spawn": process.spawn,
    "wait": process.wait,
    "kill": process.kill,
    "ps": process.ps,
    "getpid": process.getpid,
    "sleep": clock.sleep,
    "now": clock.now,
    "monotonic": clock.monotonic,
    "random": clock.random,
    "emit": process.emit,
    "exit": process.exit_,
    "thread_start": process.thread_start,
    "thread_end": process.thread_end,
    "attach": view.attach,
    "strace": view.strace,
    "why": why.why,
    "info": view.info,
    "ping": process.ping,
}
