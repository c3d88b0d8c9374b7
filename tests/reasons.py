"""No kernel of this process may answer an error that the call table does not list (abi/table.py, the manual's ERRORS).

What comes by `Kernel.reject` is no answer of the kernel's own: the codec's refusals, and a test's faults.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from vllm_symphony.abi.table import CALLS
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.machine import Machine


@contextmanager
def unlisted() -> Iterator[list[str]]:
    """Calls that end in a reason that is not theirs, as they come. A kernel may run in a thread of its own: it is only noted."""
    found: list[str] = []
    rejected: list[Any] = []
    fail, reject = Machine.fail, Kernel.reject

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

    with patch.object(Machine, "fail", noting), patch.object(Kernel, "reject", rejecting):
        yield found
