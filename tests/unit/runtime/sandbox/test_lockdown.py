"""What a locked process has and has not. As root on a machine with all layers these are level A."""

import asyncio
import os
import resource
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.unit.runtime.sandbox.jail import confined, in_child
from vllm_symphony.runtime.sandbox import LayerFailed, Layers, Plan, lock_down
from vllm_symphony.runtime.sandbox.privilege import bounding_set

MOST_DESCRIPTORS = 4096  # a test session with an engine has some hundred

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def refusal(work, *args) -> str:
    """The name of the error that it raises, or what it gave."""
    try:
        return f"gave {work(*args)!r}"
    except OSError as e:
        return type(e).__name__
    except ValueError:
        return "ValueError"


def open_descriptors() -> list[int]:
    return [fd for fd in range(MOST_DESCRIPTORS) if refusal(os.fstat, fd) != "OSError"]


def test_no_descriptor_leaks_through_the_fork():
    leaked = os.open("/etc/hostname", os.O_RDONLY)
    pair = socket.socketpair()

    said = confined(open_descriptors)

    os.close(leaked)
    for end in pair:
        end.close()
    assert len(said.value) == 2 and 2 in said.value  # stderr and the pipe that this came by


def test_no_descriptor_is_closed_that_was_to_be_kept():
    def work():
        first, second = os.pipe()
        os.dup2(first, 0)
        from vllm_symphony.runtime.sandbox.lockdown import close_all_but

        close_all_but((0, second))
        return open_descriptors() == sorted((0, second))

    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if work() else 1)
    os.close(reading)
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0


@as_root
def test_the_process_is_nobody_else_and_has_no_groups_and_no_capabilities():
    said = confined(lambda: (os.getresuid(), os.getresgid(), os.getgroups(), sorted(bounding_set()), refusal(os.setuid, 0)))

    uids, gids, groups, capabilities, refused = said.value
    assert len(set(uids)) == 1 and uids == gids and uids[0] >= 64_000
    assert (groups, capabilities, refused) == ([], [], "PermissionError")


def test_limits_are_what_the_plan_says_and_cannot_be_raised():
    names = ("RLIMIT_NOFILE", "RLIMIT_CPU", "RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK")

    def work():
        found = {name: resource.getrlimit(getattr(resource, name)) for name in names}
        raised = {
            name: refusal(resource.setrlimit, getattr(resource, name), (hard + 1, hard + 1)) for name, (_, hard) in found.items()
        }
        return found, raised

    found, raised = confined(work, fds=40, cpu_s=7).value

    assert found == {
        "RLIMIT_NOFILE": [40, 40], "RLIMIT_CPU": [12, 12], "RLIMIT_CORE": [0, 0], "RLIMIT_FSIZE": [0, 0], "RLIMIT_MEMLOCK": [0, 0],
    }  # fmt: skip
    assert set(raised.values()) == {"ValueError"}  # what Python makes of EPERM here


def test_memory_is_limited_to_the_plans_and_what_is_asked_at_once_is_refused():
    def work():
        try:
            return len(bytes(1 << 30))
        except MemoryError:
            return "MemoryError"

    assert confined(work, memory_bytes=64 << 20).value == "MemoryError"


@as_root
def test_there_is_a_last_thread():
    def work():
        parked, stop = 0, threading.Event()
        try:
            for _ in range(40):
                threading.Thread(target=stop.wait, daemon=True).start()
                parked += 1
        except RuntimeError as e:
            return parked, str(e)
        finally:
            stop.set()

    assert confined(work, tasks=10).value == [9, "can't start new thread"]


def test_numpy_threads_and_event_loops_work_inside():
    async def main():
        return await asyncio.gather(*(asyncio.to_thread(pow, 2, i) for i in range(8)))

    def work():
        with ThreadPoolExecutor(4) as pool:
            pooled = list(pool.map(len, ["a", "bb"]))
        return asyncio.run(main()), pooled, float((np.ones((40, 40)) @ np.ones((40, 40))).sum())

    assert confined(work).value == [[2**i for i in range(8)], [1, 2], 64000.0]


def test_the_library_can_be_imported_and_the_rest_of_the_machine_cannot_be_read():
    def work():
        import this_module_is_not_there  # noqa: F401

    def look():
        import tabnanny

        here = [refusal(open, path) for path in (__file__, "/etc/passwd", "/proc/self/status", "/proc/1/environ", "/dev/mem")]
        return tabnanny.__name__, refusal(os.listdir, "/"), here

    assert "ModuleNotFoundError" in confined(work).error
    name, listing, here = confined(look).value
    assert (name, listing) == ("tabnanny", "PermissionError")
    assert set(here) <= {"PermissionError", "FileNotFoundError"}


def test_nothing_can_be_written_but_the_null_device():
    def work():
        with open("/dev/null", "w") as null:
            null.write("x")
        paths = ("/symphony", "/tmp/symphony", os.path.join(os.path.dirname(os.__file__), "symphony"))
        return [refusal(os.open, path, os.O_WRONLY | os.O_CREAT) for path in paths]

    assert set(confined(work).value) <= {"PermissionError", "FileNotFoundError", "OSError"}


def test_a_call_that_nobody_makes_by_mistake_ends_the_process():
    def work():
        from vllm_symphony.runtime.sandbox.libc import syscall

        syscall("ptrace", 0, 0, 0, 0)

    assert confined(work).status == -signal.SIGSYS


def test_the_process_still_dies_with_the_fork_server_after_it_became_somebody_else():
    def serve():
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            from vllm_symphony.runtime.sandbox.libc import prctl

            prctl(1, signal.SIGKILL)
            lock_down(prepare_slot.plan(plan), keep=(writing,))
            os.write(writing, b"x")
            signal.pause()
        os.read(reading, 1)
        return pid

    from vllm_symphony.runtime.sandbox import prepare_zygote

    said_reading, said_writing = os.pipe()
    server = os.fork()
    if server == 0:
        plan = prepare_zygote()
        prepare_slot = plan.slots.take(plan)
        os.write(said_writing, str(serve()).encode())
        signal.pause()
    os.close(said_writing)
    child = os.pidfd_open(int(os.read(said_reading, 32)))
    os.close(said_reading)

    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)

    assert ends(child)


def ends(pidfd: int) -> bool:
    """Whether the process ends, soon."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    try:
        return bool(poll.poll(10_000))
    finally:
        os.close(pidfd)


def test_a_plan_without_seccomp_cannot_be_put_on():
    def work():
        try:
            lock_down(Plan("python", Layers()))
        except LayerFailed as e:
            return e.layer

    assert in_child(work).value == "seccomp"


@as_root
def test_a_layer_that_cannot_be_put_on_says_which_it_is():
    def work():
        from dataclasses import replace

        from vllm_symphony.runtime.sandbox import prepare_zygote

        plan = prepare_zygote()
        plan.slots.close()
        failed = []
        for change in ({"uid": 2**32 - 1}, {"ruleset": 999}):
            try:
                lock_down(replace(plan, **change), keep=(2,))
            except LayerFailed as e:
                failed.append(e.layer)
        return failed

    assert in_child(work).value == ["user", "landlock"]
