"""tokenize, detokenize, render_chat, parse_tools: the tokenizer's calls (kernel/syscall/text.py).

They wait for the tokenizer's thread, never for a step, and touch no file; a cancelled one answers at once and its
work is forgotten.
"""

from __future__ import annotations

from typing import Any

from vllm_symphony.abi.types import JobId
from vllm_symphony.errors import DeviceLost
from vllm_symphony.kernel.call import Call, Pending
from vllm_symphony.kernel.effect import TextDone, TextJob
from vllm_symphony.kernel.job import surprise
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import argument


class TextWork(Pending):
    """One text job in flight."""

    __slots__ = ("id",)

    def __init__(self, m: Machine, call: Call) -> None:
        super().__init__(call)
        m.num_jobs += 1
        self.id = JobId(m.num_jobs)
        m.works[self.id] = self

    def drop(self, m: Machine) -> None:
        super().drop(m)
        m.works.pop(self.id, None)

    def completed(self, m: Machine, completion: Any, now_ns: int) -> None:
        """Take the tokenizer's answer."""
        call = self.call
        if call is None:
            return
        self.drop(m)
        if isinstance(completion, TextDone):
            m.finish(call, completion.result, now_ns)
        else:
            m.fail(call, getattr(completion, "error", None) or surprise(completion), now_ns)


def text(m: Machine, call: Call, a: Any) -> None:
    """Hand the call to the tokenizer as it is; answers with its result."""
    if m.lost is not None:
        raise DeviceLost(m.lost)
    if call.op == "detokenize":
        argument.tokens(a.tokens, m.model.vocab_size)
    work = TextWork(m, call)
    call.pending = work
    m.emit(TextJob(work.id, call.op, a))
