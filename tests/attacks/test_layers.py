"""Machines that lack a layer, made for real: a filter around the whole server takes its system calls away."""

import ctypes
import os
import re
import struct

import pytest

from tests.attacks.arena import How, ready, start, stop
from vllm_symphony.client import Program
from vllm_symphony.runtime.sandbox.bpf import Assembler
from vllm_symphony.runtime.sandbox.syscall_table import here

ALLOW, REFUSE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 0x7FFF0000, 0x00050000, 38, 22
HELLO = Program("async def main():\n    return 'hello'\n")


def without(*names: str, filters: bool = True):
    """What takes these calls away from a process and all its children; also filters of their own, if not `filters`. They fail with
    EPERM, as under an outer sandbox."""
    numbers, code = here().numbers, Assembler()
    code.load(0)
    for name in names:
        code.jump_if_equal(numbers[name], otherwise=f"not {name}")
        code.give(REFUSE | 1)
        code.mark(f"not {name}")
    if not filters:
        code.jump_if_equal(numbers["prctl"], otherwise="no prctl")
        code.load(16)
        code.jump_if_equal(PR_SET_SECCOMP, otherwise="another option")
        code.give(REFUSE | 22)
        code.mark("another option")
        code.give(ALLOW)
        code.mark("no prctl")
    code.give(ALLOW)
    text = code.assemble()

    def put_on() -> None:
        libc = ctypes.CDLL(None)
        buffer = ctypes.create_string_buffer(text, len(text))
        program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(text) // 8, ctypes.addressof(buffer)))
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        assert libc.prctl(PR_SET_SECCOMP, 2, ctypes.c_ulong(ctypes.addressof(program)), 0, 0) == 0

    return put_on


@pytest.fixture
def serve(tmp_path):
    """`serve(*flags, before=...)`: a server on such a machine."""
    made = []

    def make(*flags, before=None):
        made.append(start(tmp_path / f"run{len(made)}", *flags, before=before))
        return made[-1]

    yield make
    for arena in made:
        stop(arena)


NO_LANDLOCK = ("landlock_create_ruleset", "landlock_restrict_self")


def test_without_landlock_the_level_is_b_and_strangers_start_nothing(serve):
    arena = ready(serve(before=without(*NO_LANDLOCK)))
    mallory = arena.token("mallory")

    found = arena.info()["confinement"]
    assert found["level"] == "B" and [m["layer"] for m in found["missing"]] == ["landlock"]
    assert arena.run(HELLO).value == "hello"
    assert re.search(r"EPERM: mallory .*level B here.*landlock", arena.refusal(lambda client: client.spawn(HELLO), mallory))
    assert arena.attack("access", "read_files", paths=["/etc/passwd", __file__, str(arena.run_dir / "state")]).value == []


def test_without_landlock_and_namespaces_files_stay_closed(serve):
    arena = ready(serve(before=without(*NO_LANDLOCK, "unshare")))

    assert arena.info()["confinement"]["level"] == "B"
    found = arena.attack("access", "read_files", paths=["/etc/passwd", __file__, str(arena.run_dir / "state")]).value
    assert {what.split()[0] for what in found} <= {"stat"}  # that they are there can be seen then
    assert arena.attack("access", "sockets", paths=[str(arena.run_dir / "kernel.sock")], ports=[]).value == []


def test_without_users_of_their_own_and_namespaces_programs_run_as_the_server_and_strangers_do_not(serve):
    arena = ready(serve(before=without("unshare", "setresuid")))

    found = arena.info()["confinement"]
    assert found["level"] == "B" and {"user", "private root"} <= {m["layer"] for m in found["missing"]}
    assert arena.attack("access", "signals", pids=[arena.process.pid, os.getpid()]).value == []
    assert arena.run(HELLO).value == "hello"


def test_without_seccomp_nobody_starts_anything_and_the_error_says_what_is_missing(serve):
    arena = ready(serve(before=without(filters=False)))

    found = arena.info()["confinement"]
    assert found["level"] == "C" and "seccomp" in [m["layer"] for m in found["missing"]]
    assert re.search(r"EPERM: .*works for nobody.*--unconfined.*seccomp", arena.refusal(lambda client: client.spawn(HELLO)))


def test_a_level_that_is_demanded_and_not_there_keeps_the_server_from_starting(serve):
    arena = serve("--confinement", "A", before=without(*NO_LANDLOCK))

    assert arena.process.wait(60) != 0
    said = (arena.run_dir / "serve.log").read_text()
    assert "at level B only, A is demanded: landlock" in said and "--unconfined" in said


def test_unconfined_runs_what_it_was_told_to_run(serve):
    arena = ready(serve("--unconfined", before=without(filters=False)))

    outcome = arena.run(
        Program("import os\n\nasync def main():\n    return os.path.exists('/etc/passwd')\n"), how=How(beside=False)
    )

    assert outcome.value is True
