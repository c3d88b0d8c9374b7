"""Limits and what was used of them (kernel/syscall/limit.py): getrlimit, setrlimit, getrusage."""

from __future__ import annotations

from vllm_symphony.abi.calls import Done, Getrlimit, Getrusage, RlimitResult, RusageResult, Setrlimit
from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine


def getrlimit(m: Machine, call: Call, a: Getrlimit) -> RlimitResult:
    raise NotSupported("getrlimit is being built")


def setrlimit(m: Machine, call: Call, a: Setrlimit) -> Done:
    raise NotSupported("setrlimit is being built")


def getrusage(m: Machine, call: Call, a: Getrusage) -> RusageResult:
    raise NotSupported("getrusage is being built")
