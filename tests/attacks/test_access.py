"""Programs that reach for what is not theirs: nothing is read, reached or changed; what nobody does by mistake ends them."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest

import vllm_symphony
from tests.attacks.arena import SECRET
from vllm_symphony.runtime.sandbox import policy
from vllm_symphony.runtime.sandbox.syscall_table import here

NUMBERS = here().numbers
FATAL = sorted(name for name in policy.FATAL if name in NUMBERS)
REFUSED = (
    "memfd_create", "memfd_secret", "shmget", "semget", "msgget", "mq_open", "seccomp", "landlock_create_ruleset",
    "personality", "syslog", "setuid", "capset", "tkill", "rt_sigqueueinfo", "pidfd_open", "pidfd_send_signal",
    "name_to_handle_at", "inotify_init1", "fanotify_init", "splice", "vmsplice", "sendfile", "copy_file_range",
    "migrate_pages", "mlockall", "sethostname", "chdir", "socket", "bind", "listen", "accept4", "connect", "execve",
    "execveat", "truncate", "fallocate", "unlinkat", "mknodat", "fchmodat", "fchownat", "timer_create",
)  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Files that everybody on the machine may read: a secret, and weights."""
    folder = tmp_path_factory.mktemp("open")
    for path in (folder, *folder.parents):
        if path != Path("/tmp") and path.is_relative_to("/tmp"):
            path.chmod(0o755)
    for name in ("secret.txt", "model.safetensors"):
        (folder / name).write_text(SECRET)
        (folder / name).chmod(0o644)
    return [str(folder / "secret.txt"), str(folder / "model.safetensors"), str(folder)]


def test_no_file_of_the_server_or_the_machine_can_be_opened_or_seen(arena, planted):
    run_dir = arena.run_dir
    paths = [
        *planted, "/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/self/status", "/proc/self/mem",
        "/proc/self/environ", "/proc/1/cmdline", f"/proc/{arena.process.pid}/environ", f"/proc/{arena.host.pid}/maps",
        "/sys/fs/cgroup", "/dev/mem", "/dev/kmsg", "/boot", "/var/log", vllm_symphony.__file__,
        os.path.dirname(vllm_symphony.__file__), __file__, np.__path__[0] + "/../grpc", str(run_dir / "state"),
        str(run_dir / "token"), str(run_dir / "kernel.sock"), str(run_dir / "serve.log"),
    ]  # fmt: skip

    assert arena.attack("access", "read_files", paths=paths).value == []


def test_there_is_no_way_up_out_of_the_root(arena):
    through = arena.attack("access", "dot_dot").value

    assert set(through) <= {"..", "../../..", "/."} or through == []


def test_there_is_no_socket_of_any_family(arena):
    doors = [str(arena.run_dir / name) for name in ("symphony.sock", "kernel.sock")]
    port = int(str(arena.run_dir) and (arena.run_dir / "token").read_text().split(":")[-1])

    assert arena.attack("access", "sockets", paths=doors, ports=[port, 80]).value == []


def test_the_sockets_that_there_are_reach_nobody_else(arena):
    doors = [str(arena.run_dir / name) for name in ("symphony.sock", "kernel.sock")]

    assert arena.attack("access", "pair_to_anywhere", paths=doors).value == []


def test_no_other_process_can_be_signalled_or_changed(arena):
    pids = [arena.process.pid, arena.host.pid, arena.zygote().pid, os.getpid()]

    assert arena.attack("access", "signals", pids=pids).value == []


@pytest.mark.parametrize("name", FATAL)
def test_a_call_that_nobody_makes_by_mistake_ends_the_program(arena, name):
    outcome = arena.run_fast("access", "fatal", number=NUMBERS[name])

    assert (outcome.code, outcome.reason) == (159, "denied")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 and i386 are other ABIs of x86_64")
@pytest.mark.parametrize("entry", ["x32", "i386"])
def test_other_abis_of_the_processor_end_the_program(arena, entry):
    outcome = arena.attack("access", entry)

    denied, no_such_entry = (159, "denied"), (139, "signal")  # a kernel without 32-bit calls has no such entry at all
    assert (outcome.code, outcome.reason) in ((denied,) if entry == "x32" else (denied, no_such_entry))


def test_other_calls_that_reach_outside_are_refused(arena):
    numbers = {name: NUMBERS[name] for name in REFUSED if name in NUMBERS}

    assert set(arena.attack("access", "raw_calls", numbers=numbers).value.items()) == {(name, "EPERM") for name in numbers}


def test_no_descriptor_was_inherited_but_the_programs_own(arena):
    kinds = arena.attack("access", "descriptors").value

    assert {fd: kinds.pop(fd) for fd in ("0", "1", "2", "3")} == {"0": "device", "1": "pipe", "2": "pipe", "3": "socket"}
    assert set(kinds.values()) <= {"other", "socket"} and len(kinds) <= 4  # the event loop's


def test_the_environment_holds_nothing_of_the_servers(arena):
    found = arena.attack("access", "environment").value

    assert SECRET not in str(found)
    assert {line.split("=")[0] for line in found["c"]} | set(found["python"]) <= {
        "PATH", "LANG", "LC_CTYPE", "PYTHONHASHSEED", "PYTHONPATH", "OPENBLAS_NUM_THREADS", "HOME",
    }  # fmt: skip


def test_the_heap_holds_nothing_of_the_servers(arena):
    assert arena.attack("access", "heap", secret=SECRET.encode().hex()).value == 0


def test_no_limit_or_priority_can_be_raised(arena):
    assert arena.attack("access", "limits").value == []


def test_nobody_can_become_somebody_else(arena):
    assert arena.attack("access", "identity").value == []


def test_the_cpu_time_of_others_cannot_be_read(arena):
    pids = [arena.process.pid, arena.host.pid, arena.zygote().pid]

    assert arena.attack("access", "clocks", pids=pids).value == []


def test_no_program_can_make_itself_outlive_the_fork_server(arena):
    assert arena.attack("access", "outlive").value == {"prctl": "EPERM", "setpgid": True, "setsid": True}
