"""No kernel of this process may answer an error that the call table does not list (abi/table.py, the manual's ERRORS).

What comes by `Kernel.reject` is no answer of the kernel's own: the codec's refusals, and a test's faults.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from vllm_symphony.abi.table import CALLS
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.machine import Machine
from vllm_symphony.kernel.syscall import forward


@contextmanager
def unlisted() -> Iterator[list[str]]:
    """Calls that end in a reason that is not theirs, as they come. A kernel may run in a thread of its own: it is only noted."""
    found: list[str] = []
    rejected: list[Any] = []
    fail, reject, wire_error = Machine.fail, Kernel.reject, forward.wire_error

    def noting(self: Machine, call: Any, error: Any, now_ns: int) -> None:
        is_own = not call.ended and not any(error is other for other in rejected)
        if is_own and call.op in CALLS and error.reason not in CALLS[call.op].all_errors:
            found.append(f"{call.op} answered {error}")
        fail(self, call, error, now_ns)

    def rejecting(self: Kernel, pid: Any, call_id: int, tid: int, op: str, error: Any, now_ns: int) -> None:
        rejected.append(error)
        try:
            reject(self, pid, call_id, tid, op, error, now_ns)
        finally:
            rejected.remove(error)

    def writing(error: Any) -> Any:
        if error.reason not in CALLS["forward"].all_errors:
            found.append(f"an item of forward_many answered {error}")
        return wire_error(error)

    patches = (
        patch.object(Machine, "fail", noting),
        patch.object(Kernel, "reject", rejecting),
        patch.object(forward, "wire_error", writing),
    )
    with ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        yield found
