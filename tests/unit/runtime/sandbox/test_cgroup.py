"""Control groups: found on made-up machines, used on this one where it lets us."""

import os
import select
import signal

import pytest

from tests.unit.runtime.sandbox.jail import in_child
from vllm_symphony.runtime.sandbox import cgroup_tree, janitor
from vllm_symphony.runtime.sandbox.cgroup import Cgroups, sweep
from vllm_symphony.runtime.sandbox.cgroup_tree import Tree, find_trees

MIB = 1 << 20


def have_groups() -> bool:
    try:
        return bool(find_trees())
    except OSError:
        return False


where_there_are_groups = pytest.mark.skipif(not have_groups(), reason="no control groups that we may make")


def group(path, **files: str) -> str:
    """A made-up group; `subtree_control` for cgroup.subtree_control."""
    path.mkdir(parents=True)
    (path / "cgroup.procs").write_text("")
    for name, text in files.items():
        (path / f"cgroup.{name}").write_text(text)
    return str(path)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(mounts, own)`: what /proc says of it, with paths below tmp_path."""

    def make(mounts, own):
        rows = [(root, str(tmp_path / point), kind, options) for root, point, kind, options in mounts]
        monkeypatch.setattr(cgroup_tree, "_mounts", lambda: rows)
        monkeypatch.setattr(cgroup_tree, "_own_groups", lambda: own)

    return make


def test_the_second_version_is_used_where_our_group_hands_memory_down(tmp_path, machine):
    group(tmp_path / "cg", subtree_control="")
    ours = group(tmp_path / "cg/app", subtree_control="cpu memory pids")
    machine([("/", "cg", "cgroup2", ["rw"])], {"": "/app"})

    assert find_trees() == [Tree("all", ours)]


def test_else_the_top_is_used_if_it_hands_memory_down_and_we_may(tmp_path, machine):
    top = group(tmp_path / "cg", subtree_control="memory pids")
    group(tmp_path / "cg/app", subtree_control="", controllers="memory pids")
    machine([("/", "cg", "cgroup2", ["rw"])], {"": "/app"})

    assert find_trees() == [Tree("all", top)]


def test_a_delegated_group_becomes_an_inner_one_and_its_processes_go_to_a_leaf(tmp_path, machine):
    group(tmp_path / "cg", subtree_control="")
    ours = group(tmp_path / "cg/app", subtree_control="", controllers="memory pids")
    (tmp_path / "cg/app/cgroup.procs").write_text(f"{os.getpid()}\n")
    group(tmp_path / "cg/app/symphony-server")
    machine([("/", "cg", "cgroup2", ["rw"])], {"": "/app"})

    assert find_trees() == [Tree("all", ours)]
    assert (tmp_path / "cg/app/symphony-server/cgroup.procs").read_text() == str(os.getpid())
    assert (tmp_path / "cg/app/cgroup.subtree_control").read_text() == "+memory +pids"


def test_a_fork_server_that_was_moved_to_the_leaf_uses_the_group_above_it(tmp_path, machine):
    group(tmp_path / "cg", subtree_control="")
    ours = group(tmp_path / "cg/app", subtree_control="memory pids")
    group(tmp_path / "cg/app/symphony-server", subtree_control="")
    machine([("/", "cg", "cgroup2", ["rw"])], {"": "/app/symphony-server"})

    assert find_trees() == [Tree("all", ours)]


def test_a_container_has_only_a_part_of_the_tree_mounted(tmp_path, machine):
    ours = group(tmp_path / "cg", subtree_control="memory")
    machine([("/docker/abc", "cg", "cgroup2", ["rw"])], {"": "/docker/abc"})

    assert find_trees() == [Tree("all", ours)]


def test_the_first_version_has_a_tree_for_memory_and_one_for_tasks(tmp_path, machine):
    memory, pids = group(tmp_path / "memory/job"), group(tmp_path / "pids")
    mounts = [("/", "unified", "cgroup2", ["rw"]), ("/", "memory", "cgroup", ["rw", "memory"]), ("/", "pids", "cgroup", ["pids"])]
    machine(mounts, {"memory": "/job", "pids": "/elsewhere"})

    assert find_trees() == [Tree("memory", memory), Tree("pids", pids)]


@pytest.mark.parametrize("mounts", [[], [("/", "cg", "cgroup2", ["ro"])], [("/", "pids", "cgroup", ["pids"])]])
def test_a_machine_without_memory_groups_is_told(machine, mounts):
    machine(mounts, {"": "/", "pids": "/"})

    with pytest.raises(OSError, match="no control group with memory"):
        find_trees()


def test_the_limits_of_both_versions():
    assert Tree("all", "/").limits(5 * MIB, 16) == [("memory.max", "5242880"), ("memory.swap.max", "0"), ("pids.max", "16")]
    assert [file for file, _ in Tree("memory", "/").limits(5 * MIB, 16)][1] == "memory.limit_in_bytes"
    assert Tree("pids", "/").limits(5 * MIB, 16) == [("pids.max", "16")]


@where_there_are_groups
def test_a_program_that_takes_too_much_is_killed_and_counted_and_the_groups_are_gone_afterwards():
    def hoard():
        os.read(entering, 1)
        held = []
        for _ in range(64):
            held.append(bytearray(b"x" * MIB))

    entering, entered = os.pipe()
    cgroups = Cgroups.open()
    try:
        cgroups.make("0", memory_bytes=24 * MIB, tasks=4)
        child = os.fork()
        if child == 0:
            hoard()
            os._exit(0)
        cgroups.put("0", child)
        before = cgroups.num_killed("0")
        os.write(entered, b"x")
        _, status = os.waitpid(child, 0)

        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        assert (before, cgroups.num_killed("0")) == (0, 1)
        assert cgroups.used_bytes("0") < 24 * MIB
    finally:
        cgroups.close()
        os.close(entering)
        os.close(entered)
    assert not left_over(os.getpid())


@where_there_are_groups
def test_what_a_killed_fork_server_left_is_removed_by_the_next_one():
    gone = os.fork()
    if gone == 0:
        Cgroups.open().make("0", memory_bytes=MIB, tasks=1)
        os._exit(0)
    os.waitpid(gone, 0)
    assert left_over(gone)

    for tree in find_trees():
        sweep(tree)

    assert not left_over(gone)


@where_there_are_groups
def test_the_janitor_kills_and_removes_what_a_killed_fork_server_left():
    reading, writing = os.pipe()
    server = os.fork()
    if server == 0:
        cgroups = Cgroups.open()
        cgroups.make("7", memory_bytes=64 * MIB, tasks=4)
        orphan = os.fork()
        if orphan == 0:
            signal.pause()
        cgroups.put("7", orphan)
        os.write(writing, f"{janitor.start(cgroups)} {orphan}".encode())
        signal.pause()
    watched = [os.pidfd_open(int(pid)) for pid in os.read(reading, 64).split()]
    for fd in (reading, writing):
        os.close(fd)

    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)

    for pidfd in watched:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000)
        os.close(pidfd)
    assert not left_over(server)


def left_over(pid: int) -> list[str]:
    paths = [os.path.join(tree.parent, f"symphony-{pid}") for tree in find_trees()]
    return [path for path in paths if os.path.exists(path)]


def test_a_janitor_holds_nothing_but_what_it_watches_and_removes():
    def work():
        inherited = os.open("/dev/null", os.O_RDONLY)
        janitor.start(Cgroups("v1", []))
        del inherited
        return True

    assert in_child(work).value  # it would wait for the end of the pipe, which the janitor must not hold
