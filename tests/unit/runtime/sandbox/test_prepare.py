"""What a fork server makes of machines that lack a layer: it says so, and goes on with the rest."""

import os
import threading
from contextlib import suppress
from dataclasses import replace
from errno import EPERM

import pytest

from tests.unit.runtime.sandbox.jail import confined, in_child, prepared
from vllm_symphony.runtime.sandbox import landlock, lock_down, namespace, policy, prepare_zygote, privilege, seccomp, user
from vllm_symphony.runtime.sandbox.cgroup import Cgroups
from vllm_symphony.runtime.sandbox.libc import prctl
from vllm_symphony.runtime.sandbox.plan import Layers

PR_SET_DUMPABLE = 4
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has all layers")


def refuse(*args: object, **kwargs: object) -> None:
    raise OSError(EPERM, "not on this machine")


@pytest.mark.parametrize(
    ("layers", "level"),
    [
        (Layers(), "C"),
        (Layers(landlock=7, user="own", cgroup="v2", private_root=True), "C"),
        (Layers(seccomp=True), "B"),
        (Layers(seccomp=True, landlock=1, user="own"), "B"),
        (Layers(seccomp=True, landlock=1, cgroup="v1"), "B"),
        (Layers(seccomp=True, user="own", cgroup="v1", private_root=True), "B"),
        (Layers(seccomp=True, landlock=1, user="namespace", cgroup="v2"), "A"),
    ],
)
def test_the_level_is_a_only_with_all_that_keeps_strangers_apart(layers, level):
    assert layers.level == level


@as_root
def test_this_machine_confines_at_level_a():
    level, active, missing = prepared()

    assert (level, missing) == ("A", [])
    assert {"seccomp", "own user", "private root", "network namespace"} <= set(active)


@as_root
def test_without_landlock_the_private_root_holds_and_the_level_is_b(monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)

    level, active, missing = prepared()
    said = confined(lambda: os.path.exists("/etc/passwd"))

    assert (level, missing) == ("B", ["landlock: this kernel has it not, or off"])
    assert "private root" in active
    assert said.value is False


@as_root
def test_without_landlock_and_namespaces_nothing_can_be_opened(monkeypatch):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(namespace, "unshare", refuse)

    level, active, missing = prepared()
    said = confined(lambda: os.open("/etc/passwd", os.O_RDONLY))

    assert (level, active) == ("B", ["seccomp", "own user", *[a for a in active if a.startswith("cgroup")]])
    assert [m.split(":")[0] for m in missing] == ["private root", "landlock", "library"]
    assert "PermissionError: [Errno 1]" in said.error


@as_root
def test_without_namespaces_landlock_holds_and_the_level_is_a(monkeypatch):
    monkeypatch.setattr(namespace, "unshare", refuse)

    level, _, missing = prepared()

    assert level == "A"
    assert "private root: [Errno 1] not on this machine" in missing


@as_root
def test_without_control_groups_the_level_is_b_and_the_address_space_is_the_limit(monkeypatch):
    monkeypatch.setattr(Cgroups, "open", refuse)

    level, _, missing = prepared()

    assert (level, missing) == ("B", ["cgroup: [Errno 1] not on this machine"])

    def hoard():
        try:
            held = []
            while True:
                held.append(b"x" * (1 << 20))
        except MemoryError:
            held.clear()
            return "MemoryError"

    assert confined(hoard, memory_bytes=32 << 20).value == "MemoryError"


@as_root
def test_without_users_of_their_own_each_program_has_a_user_namespace(monkeypatch):
    monkeypatch.setattr(user, "range_here", lambda: range(0))
    monkeypatch.setattr("os.environ", {**os.environ, "OPENBLAS_NUM_THREADS": "1"})

    level, active, missing = prepared()
    said = confined(lambda: (os.getuid(), sorted(privilege.bounding_set())))

    assert (level, missing) == ("A", [])
    assert "namespace user" in active
    assert said.value == [65534, []]


@as_root
def test_a_user_that_cannot_be_taken_on_counts_as_absent(monkeypatch):
    monkeypatch.setattr(privilege, "become", refuse)

    level, active, missing = prepared()

    assert level == "B"
    assert "own user" not in active
    assert missing == ["user: [Errno 1] user: [Errno 1] not on this machine"]


def test_a_filter_that_holds_nothing_counts_as_absent(monkeypatch):
    monkeypatch.setattr(seccomp.Filter, "put_on", lambda self, pid: None)

    level, active, missing = prepared()

    assert level == "C"
    assert "seccomp" not in active
    assert "the self-test got through: make a socket" in missing[-1]


def test_a_filter_that_does_not_end_the_process_counts_as_absent(monkeypatch):
    monkeypatch.setattr(policy, "FATAL", ())

    level, _, missing = prepared()

    assert level == "C"
    assert missing[-1] == "seccomp: the self-test was not ended by ptrace"


@as_root
def test_rules_that_let_everything_through_count_as_absent(monkeypatch):
    monkeypatch.setattr(landlock, "enforce", lambda ruleset: None)

    level, _, missing = prepared()

    assert level == "B"
    assert missing[-1].startswith("landlock: the self-test got through:")


def test_without_seccomp_the_level_is_c_and_nothing_is_locked_down(monkeypatch):
    monkeypatch.setattr(seccomp, "is_there", lambda: False)

    level, _, missing = prepared()

    assert level == "C"
    assert any(m.startswith("seccomp: ") for m in missing)


def test_on_an_architecture_that_is_not_known_the_level_is_c(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")

    assert prepared()[0] == "C"


@as_root
@pytest.mark.parametrize("uid", [0, 61_234])
def test_the_tasks_of_each_program_are_counted_apart(monkeypatch, uid):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # a process with threads cannot enter a user namespace

    said = in_child(crowd, uid)

    assert (said.error, said.value) == ("", [3] * 6)


def crowd(uid: int) -> list[int]:
    """Six programs of this server that may have four tasks each, all at once; how many threads each could start."""
    os.setresuid(uid, uid, uid)
    prctl(PR_SET_DUMPABLE, 1)  # as a process is that was always this user's
    plan = replace(prepare_zygote(), tasks=4)
    entering, entered = os.pipe()
    pids, pipes = [], []
    for _ in range(6):
        slot = plan.slots.take(plan)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            lock_down(slot.plan(plan), keep=(entering, writing))
            start_threads(entering, writing)
        slot.enter(pid)
        os.close(writing)
        pids.append(pid)
        pipes.append(reading)
    found = [int(os.read(reading, 8)) for reading in pipes]
    os.close(entered)
    for pid in pids:
        os.waitpid(pid, 0)
    plan.slots.close()
    return found


def start_threads(entering: int, writing: int) -> None:
    """As many as there can be, up to eight; all stay until `entering` ends. Does not return."""
    num = 0
    with suppress(RuntimeError):
        for _ in range(8):
            threading.Thread(target=os.read, args=(entering, 1), daemon=True).start()
            num += 1
    os.write(writing, str(num).encode())
    os.read(entering, 1)
    os._exit(0)
