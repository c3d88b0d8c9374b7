"""Names and rights (kernel/syscall/name.py): being built."""

from __future__ import annotations

from typing import Any

from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine


def mkdir(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")


def rmdir(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")


def listdir(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")


def chmod(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")


def chown(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")


def umask(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")
