"""The registry's calls (kernel/syscall/program.py): install, uninstall, programs, program."""

from __future__ import annotations

from vllm_symphony.abi.calls import Done, Install, ProgramArgs, ProgramResult, Programs, ProgramsResult, ProgramTextResult
from vllm_symphony.errors import NotSupported
from vllm_symphony.kernel.call import Call
from vllm_symphony.kernel.machine import Machine


def install(m: Machine, call: Call, a: Install) -> ProgramResult:
    raise NotSupported("install is being built")


def uninstall(m: Machine, call: Call, a: ProgramArgs) -> Done:
    raise NotSupported("uninstall is being built")


def programs(m: Machine, call: Call, a: Programs) -> ProgramsResult:
    raise NotSupported("programs is being built")


def program(m: Machine, call: Call, a: ProgramArgs) -> ProgramTextResult:
    raise NotSupported("program is being built")
