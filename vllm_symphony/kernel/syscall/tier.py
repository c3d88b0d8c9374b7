"""Tiers (kernel/syscall/tier.py): being built."""

from __future__ import annotations

from typing import Any

from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine


def pin(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")


def advise(m: Machine, call: Call, a: Any) -> Any:
    """Not yet."""
    raise NotSupported(f"{call.op} is being built")
