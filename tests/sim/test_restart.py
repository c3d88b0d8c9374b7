"""A machine that is switched off and on again: its state directory gives the same tree, files and limits, and nothing that it
should not keep. Kernel, store and device are real, time is made up; "off" is a crash (nobody hears of it) or an orderly end."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.counts import count
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import OpenFlags, Span, pack_tokens, unpack_tokens
from vllm_symphony.engine.sim import SimModel
from vllm_symphony.errors import DataCorrupt, NotSupported, StaleFile, SymphonyError
from vllm_symphony.kernel.fs.directory import TMP_INO
from vllm_symphony.kernel.fs.node import SYSTEM
from vllm_symphony.testing import Machine

PAGE = 4
CREAT, WRITE = OpenFlags.CREAT, OpenFlags.RDWR
KEPT = (
    "ino",
    "path",
    "owner",
    "group",
    "mode",
    "length",
    "fidelity",
    "created_ns",
    "modified_ns",
    "kind",
    "durable",
    "expires_ns",
    "ttl_s",
)
NAMES = ("a", "b", "c")
PLACES = ("", "/d", "/d/e", "/tmp", "/tmp/t", "/pages")


class Switched:
    """A machine on a state directory, and short forms of its calls."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.m = self._on()

    def _on(self) -> Machine:
        m = Machine(seed=3, page_size=PAGE, max_positions=200, state_dir=self.state_dir)
        m.settle()
        return m

    def crash(self, **_: object) -> None:
        self.m.crash()
        self.m = self._on()

    def restart(self) -> None:
        self.m.close()
        self.m = self._on()

    def __call__(self, op: str, args: object) -> Any:
        return self.m.call(op, args)

    def make(self, path: str, tokens: list[int], *, compute: bool = False) -> None:
        fd = self("open", calls.Open(path, pack_tokens(tokens), CREAT | WRITE, 0o644)).fd
        if compute:
            self("forward", calls.Forward(fd, b""))
        self("close", calls.FdArgs(fd))

    def open(self, path: str) -> int:
        return int(self("open", calls.Open(path, None, WRITE)).fd)

    def tokens(self, path: str) -> list[int]:
        return unpack_tokens(self("read", calls.Read(path=path)).tokens)

    def top(self, path: str) -> Any:
        """The distribution after the file's last token."""
        fd = self.open(path)
        try:
            return self("forward", calls.Forward(fd, b"")).distributions[0]
        finally:
            self("close", calls.FdArgs(fd))

    def stat(self, path: str) -> Any:
        return self("stat", calls.Stat(path=path)).file

    def picture(self) -> dict[str, Any]:
        """All that must be the same in the next life."""
        files = self.m.kernel.files
        found: dict[str, Any] = {}
        for path, _ in files.below(files.root):
            if files.durable_in(files.lookup_directory(path.rpartition("/")[0] or "/", SYSTEM)) == "none":
                continue
            stat = self.stat(path)
            facts = {name: getattr(stat, name) for name in KEPT}
            if stat.kind == "dir":
                del facts["modified_ns"]  # of its entries: a time that no record is written for
            facts["xattrs"] = self("listxattr", calls.FileArgs(path=path)).attributes
            if stat.kind == "file":
                read = self("read", calls.Read(path=path))
                facts["tokens"], facts["positions"] = read.tokens, read.positions
            found[path] = facts
        return found


@pytest.fixture
def machine(tmp_path: Path):
    switched = Switched(tmp_path / "state")
    yield switched
    switched.m.close()


class Restarts(RuleBasedStateMachine):
    """Random changes; in between the machine goes off and on."""

    def __init__(self) -> None:
        super().__init__()
        self.dir = Path(tempfile.mkdtemp())
        self.s = Switched(self.dir / "state")
        self.open_fds: list[int] = []

    def teardown(self) -> None:
        self.s.m.close()
        shutil.rmtree(self.dir)

    def attempt(self, op: str, args: object) -> Any:
        """A call that may be refused; then nothing has changed."""
        try:
            return self.s(op, args)
        except SymphonyError:
            return None

    paths = st.builds(lambda place, name: f"{place}/{name}", st.sampled_from(PLACES), st.sampled_from(NAMES))
    tokens = st.lists(st.integers(32, 126), min_size=1, max_size=30)

    @rule(path=paths, tokens=tokens, compute=st.booleans())
    def make(self, path: str, tokens: list[int], compute: bool) -> None:
        opened = self.attempt("open", calls.Open(path, pack_tokens(tokens), CREAT | WRITE))
        if opened is not None:
            if compute:
                self.s("forward", calls.Forward(opened.fd, b""))
            self.open_fds.append(opened.fd)

    @rule(index=st.integers(0, 9), tokens=tokens, gap=st.integers(0, 3))
    def append(self, index: int, tokens: list[int], gap: int) -> None:
        if self.open_fds:
            fd = self.open_fds[index % len(self.open_fds)]
            inode = self.s.m.kernel.processes[self.s.m.root].fds.files[fd].inode
            start = inode.next_position + gap if inode.length else None
            self.attempt("append", calls.Append(fd, pack_tokens(tokens), start))

    @rule(index=st.integers(0, 9), length=st.integers(0, 30))
    def truncate(self, index: int, length: int) -> None:
        if self.open_fds:
            self.attempt("truncate", calls.Truncate(self.open_fds[index % len(self.open_fds)], length))

    @rule(index=st.integers(0, 9), path=paths, replace=st.booleans())
    def link(self, index: int, path: str, replace: bool) -> None:
        if self.open_fds:
            self.attempt("link", calls.Link(self.open_fds[index % len(self.open_fds)], path, replace))

    @rule(index=st.integers(0, 9))
    def fork(self, index: int) -> None:
        if self.open_fds:
            self.open_fds.append(self.s("fork", calls.FdArgs(self.open_fds[index % len(self.open_fds)])).fd)

    @rule(
        path=st.sampled_from(PLACES[1:]),
        durable=st.sampled_from(["", "", "none", "tokens", "pages"]),
        ttl=st.sampled_from([0.0, 9e6]),
    )
    def mkdir(self, path: str, durable: str, ttl: float) -> None:
        self.attempt("mkdir", calls.Mkdir(path))
        self.attempt("chattr", calls.Chattr(path=path, durable=durable or None, ttl_s=ttl))

    @rule(old=paths | st.sampled_from(PLACES[1:]), new=paths | st.sampled_from(PLACES[1:]))
    def rename(self, old: str, new: str) -> None:
        self.attempt("rename", calls.Rename(old, new))

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self.attempt("unlink", calls.PathArgs(path))

    @rule(path=st.sampled_from(PLACES[1:]))
    def rmdir(self, path: str) -> None:
        self.attempt("rmdir", calls.PathArgs(path))

    @rule(path=paths | st.sampled_from(PLACES[1:]), mode=st.sampled_from([0o600, 0o640, 0o755]), value=st.text(max_size=5))
    def dress(self, path: str, mode: int, value: str) -> None:
        self.attempt("chmod", calls.Chmod(mode | 0o300, path=path))
        self.attempt("setxattr", calls.Setxattr(f"user.{mode}", value, path=path))

    @rule(path=paths, after_s=st.sampled_from([0.0, 9e5]))
    def expire(self, path: str, after_s: float) -> None:
        self.attempt("chattr", calls.Chattr(path=path, expires_s=after_s))

    @rule()
    def sync(self) -> None:
        self.s("sync", calls.Sync())

    @rule(crash=st.booleans())
    def switch(self, crash: bool) -> None:
        before = self.s.picture()
        inos = self.s.m.kernel.files.next_ino
        self.open_fds.clear()

        (self.s.crash if crash else self.s.restart)()

        assert self.s.picture() == before
        assert self.s.m.kernel.files.next_ino >= inos
        tmp = self.s.m.kernel.files.directories[TMP_INO]
        assert tmp.durable != "none" or not tmp.entries

    @invariant()
    def nothing_is_broken(self) -> None:
        self.s.m.check()
        self.s.m.storage._database.check()  # type: ignore[union-attr]


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(
    max_examples=count(12, 1000), stateful_step_count=count(25, 60), deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


def test_a_synced_file_of_a_directory_with_pages_comes_back_computed(machine: Switched):
    machine("mkdir", calls.Mkdir("/kb"))
    machine("chattr", calls.Chattr(path="/kb", durable="pages"))
    machine.make("/kb/book", list(range(40, 61)), compute=True)
    row = machine.top("/kb/book")
    kept = machine("sync", calls.Sync(path="/kb/book"))

    machine.crash()

    stat = machine.stat("/kb/book")
    assert kept.num_files == 1 and kept.num_bytes > 0
    assert (stat.frontier, stat.disk_pages, stat.device_pages, stat.stale) == (21, 6, 0, False)
    assert machine.top("/kb/book") == row
    assert machine.m.core.counters()["pages_loaded"] >= 5


def test_an_orderly_end_saves_pages_without_being_asked(machine: Switched):
    machine("mkdir", calls.Mkdir("/kb"))
    machine("chattr", calls.Chattr(path="/kb", durable="pages"))
    machine.make("/kb/book", list(range(40, 60)), compute=True)

    machine.restart()

    assert machine.stat("/kb/book").disk_pages == 5


def test_a_second_sync_writes_only_what_is_new(machine: Switched):
    machine("mkdir", calls.Mkdir("/kb"))
    machine("chattr", calls.Chattr(path="/kb", durable="pages"))
    machine.make("/kb/book", list(range(40, 60)), compute=True)
    first = machine("sync", calls.Sync()).num_bytes

    assert machine("sync", calls.Sync()).num_bytes == 0
    fd = machine.open("/kb/book")
    machine("forward", calls.Forward(fd, pack_tokens([70, 71, 72, 73])))
    assert 0 < machine("sync", calls.Sync(fd=fd)).num_bytes < first


def test_an_edited_file_comes_back_by_its_pages_or_is_stale_and_rebuilt(machine: Switched):
    machine("mkdir", calls.Mkdir("/kb"))
    machine("chattr", calls.Chattr(path="/kb", durable="pages"))
    fd = machine("open", calls.Open(None, pack_tokens(list(range(40, 60))), WRITE)).fd
    machine("forward", calls.Forward(fd, b""))
    for name in ("saved", "lost"):
        part = machine("extract", calls.Extract(fd, (Span(0, 4), Span(10, 16)), "compact")).fd
        machine("link", calls.Link(part, f"/kb/{name}"))
    machine("sync", calls.Sync(path="/kb/saved"))
    row = machine.top("/kb/saved")

    machine.crash()

    assert machine.stat("/kb/saved").fidelity == "approximate" and not machine.stat("/kb/saved").stale
    assert machine.top("/kb/saved") == row
    assert machine.stat("/kb/lost").stale and machine.tokens("/kb/lost") == machine.tokens("/kb/saved")
    with pytest.raises(StaleFile, match="rebuild"):
        machine.top("/kb/lost")

    findings = machine("fsck", calls.Fsck("/kb", rebuild=True)).findings

    assert [(f.kind, f.path) for f in findings] == [("rebuilt", "/kb/lost")]
    assert machine.top("/kb/lost") == row


def test_flipped_bits_of_an_edited_file_are_an_error_until_it_is_rebuilt(machine: Switched):
    machine("mkdir", calls.Mkdir("/kb"))
    machine("chattr", calls.Chattr(path="/kb", durable="pages"))
    fd = machine("open", calls.Open(None, pack_tokens(list(range(40, 60))), WRITE)).fd
    machine("forward", calls.Forward(fd, b""))
    part = machine("extract", calls.Extract(fd, (Span(0, 4), Span(10, 16)), "compact")).fd
    machine("link", calls.Link(part, "/kb/part"))
    row = machine.top("/kb/part")
    machine("sync", calls.Sync())
    machine.m.crash()
    for path in (machine.state_dir / "pages").iterdir():
        path.write_bytes(path.read_bytes()[:-50] + bytes(50))
    machine.m = machine._on()

    with pytest.raises(DataCorrupt, match="checksum"):
        machine.top("/kb/part")
    assert machine.tokens("/kb/part") == [40, 41, 42, 43, 50, 51, 52, 53, 54, 55]

    findings = machine("fsck", calls.Fsck("/kb", rebuild=True)).findings

    assert [f.kind for f in findings] == ["corrupt", "rebuilt"]
    assert machine.top("/kb/part") == row


def test_pages_of_another_model_are_stale_and_exact_files_go_on(tmp_path: Path):
    class Other(SimModel):
        """Another one, of the same vocabulary."""

    first = Switched(tmp_path / "state")
    first("mkdir", calls.Mkdir("/kb"))
    first("chattr", calls.Chattr(path="/kb", durable="pages"))
    first.make("/kb/book", list(range(40, 60)), compute=True)
    row = first.top("/kb/book")
    first.m.close()
    second = Switched.__new__(Switched)
    second.m = Machine(seed=3, page_size=PAGE * 2, max_positions=200, state_dir=tmp_path / "state")

    assert second.m.kernel.model.fingerprint != first.m.kernel.model.fingerprint
    assert second.stat("/kb/book").stale
    assert [f.kind for f in second("fsck", calls.Fsck()).findings] == ["stale"]
    assert second.top("/kb/book") == row
    assert not second.stat("/kb/book").stale
    second.m.close()


def test_what_expired_while_the_machine_was_off_does_not_come_back(machine: Switched, monkeypatch: pytest.MonkeyPatch):
    machine.make("/soon", [40, 41])
    machine.make("/late", [40, 41])
    machine("chattr", calls.Chattr(path="/soon", expires_s=60.0))
    machine("chattr", calls.Chattr(path="/late", expires_s=6e6))
    machine.m.crash()
    monkeypatch.setattr("vllm_symphony.testing.world.EPOCH_NS", 1_700_000_100_000_000_000)
    machine.m = machine._on()

    assert [f.path for f in machine("list", calls.List()).files] == ["/late"]
    machine.crash()
    assert [f.path for f in machine("list", calls.List()).files] == ["/late"]


def test_limits_of_principals_come_back(machine: Switched):
    machine("setquota", calls.Setquota("bob", files=3, device_pages=10))

    machine.crash()

    quota = machine("getquota", calls.Getquota("bob")).quota
    assert (quota.files, quota.device_pages, quota.host_bytes) == (3, 10, None)


def test_policies_weights_and_caps_that_were_set_come_back(machine: Switched):
    machine("setsched", calls.Setsched("process", "plas", {"quantum": 64.0}))
    machine("setsched", calls.Setsched("memory", "lru"))
    machine("setweight", calls.Setweight("bob", 2.0, 3))

    machine.crash()

    found = machine("getsched", calls.NoArgs())
    policies = {p.level: (p.policy, p.source) for p in found.policies}
    assert (policies["process"], policies["memory"]) == (("plas", "set"), ("lru", "set"))
    assert [(p.weight, p.cap) for p in found.principals if p.principal == "bob"] == [(2.0, 3)]
    assert machine.m.core.former.queue.policy.name == "plas", "the device knows it too"


def test_processes_are_never_numbered_twice(machine: Switched):
    last = machine.m.kernel.num_pids

    machine.crash()

    assert machine.m.root > last


def test_what_was_found_once_is_found_again_without_indexing_anew(machine: Switched):
    machine.make("/a", list(b"the cat sat"))
    assert machine("find", calls.Find(text="cat")).total == 1

    machine.crash()

    assert machine.m.storage.load().indexed == {machine.stat("/a").ino: machine.stat("/a").modified_ns}
    assert machine("find", calls.Find(text="cat")).snippets == ("the [cat] sat",)


def test_a_machine_without_a_state_directory_says_that_it_keeps_nothing():
    with Machine() as m:
        m.call("open", calls.Open("/a", pack_tokens([40]), CREAT | WRITE))

        for op, args in (("sync", calls.Sync()), ("export", calls.Export("/a")), ("import", calls.Import("/b", "x"))):
            with pytest.raises(NotSupported, match="no state directory"):
                m.call(op, args)
