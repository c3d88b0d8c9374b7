"""The registry over the real store: what was installed is there after a restart, whole or not at all; and two principals' programs
run on one machine, each as its caller."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.counts import count, random_for
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Credentials, OpenFlags, ProgramInfo, pack_tokens
from vllm_symphony.errors import DataCorrupt, FileExists, NoSuchFile
from vllm_symphony.testing import Machine

BOB = Credentials("bob", scopes=("run",))
READER = '''"""Reads what it may."""
# /// script
# [tool.symphony]
# paths = ["~", "/kb"]
# ///
from vllm_symphony import lip


async def main(path: str) -> str:
    """Say what is there.

    Args:
        path: what to look at
    """
    try:
        async with await lip.open(path) as file:
            return f"{file.length} tokens"
    except lip.SymphonyError as error:
        return error.reason
'''


class Machines:
    """One machine after the other on a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.on()

    def on(self) -> None:
        self.m = Machine(seed=3, state_dir=self.state_dir)
        self.m.settle()

    def restart(self) -> None:
        self.m.close()
        self.on()

    def crash(self) -> None:
        self.m.crash()
        self.on()

    def __call__(self, op: str, args: object) -> Any:
        return self.m.call(op, args)

    def install(self, name: str, version: str, source: str, mode: int = 0o755) -> ProgramInfo:
        info: ProgramInfo = self("install", calls.Install(name, version, source, mode=mode)).program
        return info

    def all(self) -> dict[str, tuple[str, int]]:
        """Source and mode of each, by "name@version"."""
        found = {}
        for info in self("programs", calls.Programs()).programs:
            label = f"{info.name}@{info.version}"
            found[label] = (self("program", calls.ProgramArgs(label)).source, info.mode)
        return found


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path)
    yield machines
    machines.m.check()
    machines.m.close()


def test_what_was_installed_runs_after_a_restart(machines: Machines):
    info = machines.install("greet", "1.0", "async def main(name: str) -> str:\n    return f'Hello {name}'\n", 0o700)

    machines.restart()

    (again,) = machines("programs", calls.Programs()).programs
    assert again == info
    pid = machines("spawn", calls.Spawn(program="greet", args='{"name": "Ann"}')).pid
    assert machines("ps", calls.Ps(pid)).processes[0].program == "ann/greet@1.0"
    machines.m.run()
    assert machines.m.runs[pid].value == "Hello Ann"


def test_what_was_synced_is_there_after_a_crash(machines: Machines):
    machines.install("greet", "1.0", "x = 1")
    machines("sync", calls.Sync())

    machines.crash()

    assert machines.all() == {"ann/greet@1.0": ("x = 1", 0o755)}


@pytest.mark.parametrize("seed", range(count(3, 100)))
def test_any_installs_restarts_and_crashes_leave_what_was_there(seed: int, machines: Machines):
    rng = random_for(f"registry {seed}")
    model: dict[str, tuple[str, int]] = {}
    for _ in range(40):
        name, version = rng.choice("ab"), rng.choice(("1.0", "1.1", "2.0-rc1"))
        label, source, mode = f"ann/{name}@{version}", f"x = {rng.randrange(3)}", rng.choice((0o700, 0o755))
        match rng.randrange(6):
            case 0 | 1 | 2:
                try:
                    machines.install(name, version, source, mode)
                except FileExists:
                    assert model[label][0] != source
                else:
                    assert model.setdefault(label, (source, mode))[0] == source
                    model[label] = (source, mode)
            case 3:
                try:
                    machines("uninstall", calls.ProgramArgs(label))
                except NoSuchFile:
                    assert label not in model
                else:
                    del model[label]
            case 4:
                machines("sync", calls.Sync())
                machines.crash()
            case 5:
                machines.restart()
        assert machines.all() == model
        machines.m.kernel.registry.check()


def test_a_content_that_was_changed_on_the_disk_never_runs(machines: Machines):
    machines.install("greet", "1.0", "async def main() -> int:\n    return 1\n")
    machines.m.close()
    with closing(sqlite3.connect(machines.state_dir / "store.db")) as db, db:
        db.execute("UPDATE contents SET data = ?", (b"async def main() -> int:\n    return 2\n",))

    machines.on()

    assert machines.all() == {}
    with pytest.raises(DataCorrupt, match=r"ann/greet@1\.0 was damaged on the disk"):
        machines("spawn", calls.Spawn(program="greet@1.0"))
    machines.install("greet", "1.0", "async def main() -> int:\n    return 1\n")
    machines.restart()
    assert list(machines.all()) == ["ann/greet@1.0"]


def test_two_principals_run_one_program_each_as_itself():
    m = Machine()
    for path in ("/home/ann/mine", "/kb/book", "/secret"):
        m.call("mkdir", calls.Mkdir(path.rpartition("/")[0] or "/", 0o755, parents=True))
        fd = m.call("open", calls.Open(path, pack_tokens([1, 2]), OpenFlags.CREAT, 0o644)).fd
        m.call("close", calls.FdArgs(fd))
    m.call("install", calls.Install("reader", "1.0", READER))
    bob = m.kernel.connect(BOB, "edge", m.now_ns)

    def run(path: str, cred: Credentials | None) -> Any:
        spawn = calls.Spawn(program="ann/reader", args=json.dumps({"path": path}))
        if cred is None:
            pid = m.call("spawn", spawn).pid
        else:
            before = set(m.runs)
            m.kernel.call(bob, 1, 0, "spawn", spawn, m.now_ns, cred)
            m.settle()
            m._carry_out()
            (pid,) = set(m.runs) - before
        m.run()
        return m.runs[pid].value

    paths = ("/home/ann/mine", "/kb/book", "/secret")
    assert [run(path, None) for path in paths] == ["2 tokens", "2 tokens", "EACCES"], "what it declares binds its owner too"
    assert [run(path, BOB) for path in paths] == ["EACCES", "2 tokens", "EACCES"], "its home is bob's, and ann's is not his"
    m.kernel.disconnected(bob, m.now_ns)
    m.close()


def test_a_program_that_does_not_parse_is_installed_and_ends_as_a_bad_program(machines: Machines):
    """The kernel reads the manifest and nothing else: a million brackets are its process's business."""
    machines.install("deep", "1", "x = " + "[" * 1_000_000)

    pid = machines("spawn", calls.Spawn(program="deep")).pid
    machines.m.run()

    status = machines.m.runs[pid].status
    assert (status.code, status.reason) == (2, "program")
