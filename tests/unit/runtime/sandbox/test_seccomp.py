from errno import EINVAL, ENOSYS, ENOTTY, EPERM
from functools import cache

import pytest

from tests.unit.runtime.sandbox.bpf_machine import ALLOW, ERRNO, KILL, answer
from vllm_symphony.runtime.sandbox import policy
from vllm_symphony.runtime.sandbox.seccomp import Filter, compile_filter
from vllm_symphony.runtime.sandbox.syscall_table import ARCHITECTURES, Architecture

PID = 4321
EVERY = pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=lambda a: a.name)


def filled(made: Filter) -> bytes:
    code = bytearray(made.code)
    for at in made.pid_at:
        code[at : at + 4] = PID.to_bytes(4, "little")
    return bytes(code)


@cache
def compiled(arch_name: str, files: bool) -> bytes:
    return filled(compile_filter(ARCHITECTURES[arch_name], files=files))


def ask(arch: Architecture, name: str, *args: int, files: bool = True) -> int:
    return answer(compiled(arch.name, files), arch=arch.audit, number=arch.numbers[name], args=args)


@EVERY
def test_every_number_gets_the_answer_of_its_name_and_unknown_ones_are_refused(arch):
    code = filled(compile_filter(arch, files=True))
    wanted = {arch.numbers[name]: ALLOW for name in (*policy.ALLOWED, *policy.FILES) if name in arch.numbers}
    wanted |= {arch.numbers[name]: KILL for name in policy.FATAL if name in arch.numbers}
    wanted |= {arch.numbers["clone3"]: ERRNO | ENOSYS}
    guarded = {arch.numbers[name] for name in policy.GUARDED if name in arch.numbers}

    for number in [*range(1024), 2**29, 2**30 - 1]:
        if number not in guarded:
            assert answer(code, arch=arch.audit, number=number) == wanted.get(number, ERRNO | EPERM), number


@EVERY
def test_no_call_is_in_two_lists(arch):
    names = [*policy.ALLOWED, *policy.FILES, *policy.FATAL, *policy.GUARDED, *policy.REFUSED]

    assert len(set(names)) == len(names)
    assert all(any(name in a.numbers for a in ARCHITECTURES.values()) for name in names)


@EVERY
def test_another_architecture_and_the_foreign_abi_of_this_one_end_the_process(arch):
    code = filled(compile_filter(arch, files=True))

    for other in (0, 0x40000003, 0x40000028, *(a.audit for a in ARCHITECTURES.values() if a is not arch)):
        assert answer(code, arch=other, number=arch.numbers["getpid"]) == KILL
    if arch.foreign_bit is not None:
        for number in (0, arch.numbers["getpid"], 520, 0x3FFFFFFF):
            assert answer(code, arch=arch.audit, number=arch.foreign_bit | number) == KILL
        assert answer(code, arch=arch.audit, number=0xFFFFFFFF) == KILL


THREAD_FLAGS = 0x3D0F00  # of pthread_create
GOOD = [
    ("clone", (THREAD_FLAGS,)),
    ("kill", (PID, 15)), ("tgkill", (PID, PID + 1, 6)),
    ("prlimit64", (0, 7, 0, 1)), ("prlimit64", (PID, 7, 0, 1)),
    ("socketpair", (1, 1, 0)), ("socketpair", (1, 5 | 0o2000000, 0)),
    ("sendto", (3, 2**40, 10, 0x4000, 0, 0)),
    ("clock_gettime", (0,)), ("clock_gettime", (11,)), ("clock_getres", (1,)), ("clock_nanosleep", (1, 0)),
    ("getpgid", (0,)), ("getsid", (PID,)), ("sched_getscheduler", (0,)), ("sched_getparam", (0,)), ("getpriority", (0, 0)),
    ("prctl", (15, 2**40)),
    ("fcntl", (3, 1030, 10)), ("ioctl", (1, 0x5401)),
    ("setsockopt", (3, 1, 7)),
    ("mmap", (0, 4096, 7, 0x22)),
]  # fmt: skip
BAD = [
    ("clone", (0x11,), EPERM), ("clone", (0x4111,), EPERM),  # fork, vfork
    ("clone", (THREAD_FLAGS | 0x10000000,), EPERM), ("clone", (THREAD_FLAGS | 0x80,), EPERM),  # with a user, a time namespace
    ("kill", (PID + 1, 9), EPERM), ("kill", (0, 9), EPERM), ("kill", (-1, 9), EPERM), ("kill", (-PID, 9), EPERM),
    ("tgkill", (1, 1, 9), EPERM),
    ("prlimit64", (1, 7, 0, 1), EPERM),
    ("socketpair", (1, 2, 0), EPERM), ("socketpair", (2, 1, 0), EPERM), ("socketpair", (1, 1 | 0o20000000, 0), EPERM),
    ("sendto", (3, 2**40, 10, 0, 2**33, 16), EPERM), ("sendto", (3, 2**40, 10, 0, 8, 16), EPERM),  # an address, high and low word
    ("clock_gettime", (((~1) << 3) | 2,), EINVAL), ("clock_gettime", (12,), EINVAL),  # of process 1
    ("clock_getres", (((~1) << 3) | 2,), EINVAL), ("clock_nanosleep", (((~1) << 3) | 2, 0), EINVAL),
    ("getpgid", (1,), EPERM), ("getsid", (1,), EPERM), ("sched_getscheduler", (1,), EPERM), ("sched_getparam", (1,), EPERM),
    ("getpriority", (0, 1), EPERM), ("getpriority", (1, 0), EPERM), ("getpriority", (2, 0), EPERM),
    ("prctl", (1, 0), EPERM), ("prctl", (22, 2), EPERM), ("prctl", (4, 1), EPERM),  # death signal, filters, dumpable
    ("fcntl", (3, 8, 1), EPERM), ("fcntl", (3, 1031, 2**20), EPERM), ("ioctl", (1, 0x5412), ENOTTY),  # F_SETOWN, pipe size, TIOCSTI
    ("setsockopt", (3, 1, 26), EPERM), ("setsockopt", (3, 6, 7), EPERM),  # SO_ATTACH_FILTER; TCP
    ("mmap", (0, 2**21, 3, 0x40022), EPERM),
]  # fmt: skip


@EVERY
@pytest.mark.parametrize(("name", "args"), GOOD)
def test_harmless_arguments_pass(arch, name, args):
    assert ask(arch, name, *args) == ALLOW


@EVERY
@pytest.mark.parametrize(("name", "args", "error"), BAD)
def test_arguments_that_reach_beyond_the_program_are_refused(arch, name, args, error):
    assert ask(arch, name, *args) == ERRNO | error


@EVERY
def test_every_guard_is_tried_above(arch):
    assert {name for name, *_ in GOOD} == {name for name, *_ in BAD} == set(policy.GUARDED)


@EVERY
def test_where_nobody_decides_about_files_none_can_be_opened(arch):
    for name in policy.FILES:
        if name in arch.numbers:
            assert ask(arch, name, files=False) == ERRNO | EPERM
    assert ask(arch, "fstat", files=False) == ALLOW


@EVERY
def test_the_pid_of_the_process_is_the_only_thing_that_is_filled_in(arch):
    made = compile_filter(arch, files=True)

    assert len(made.pid_at) == 8  # kill, tgkill, prlimit64, and what is asked of a process
    assert made.code != filled(made)
