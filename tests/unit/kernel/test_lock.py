"""`flock`: who has a file locked, who waits, and what becomes of a lease that ran out."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.counts import count
from tests.unit.kernel.world import OTHER, World
from vllm_symphony import errors
from vllm_symphony.abi.calls import Forward
from vllm_symphony.abi.types import OpenFlags, pack_tokens
from vllm_symphony.errors import SymphonyError

RDWR, TRUNC, CREAT = int(OpenFlags.RDWR), int(OpenFlags.TRUNC), int(OpenFlags.CREAT)
READONLY = "readonly"


def shared_file(w: World, path: str = "/tmp/a", *, by: int | None = None) -> int:
    """A file that all may write: an fd of it."""
    fd: int = w("open", by=by, path=path, tokens=[1, 2, 3], flags=CREAT | RDWR, mode=0o666).fd
    w.kernel.files.lookup(path, w.kernel.processes[w.pid].cred).mode = 0o666
    return fd


def again(w: World, path: str = "/tmp/a", *, by: int | None = None, flags: int = RDWR) -> int:
    fd: int = w("open", by=by, path=path, flags=flags).fd
    return fd


def waits(w: World, call: int) -> bool:
    return w.is_open(call)


def test_two_may_share_and_one_may_exclude(w: World) -> None:
    a, b = shared_file(w), again(w)

    assert w("flock", fd=a, kind="shared").lease_s == 30.0
    assert w("flock", fd=b, kind="shared", lease_s=5.0).lease_s == 5.0
    assert w("stat", fd=a).file.locked == "shared"
    w("flock", fd=b, kind="unlock")
    w("flock", fd=a, kind="exclusive")

    assert w("stat", fd=b).file.locked == "exclusive"
    with pytest.raises(errors.WouldBlock):
        w("flock", fd=b, kind="shared", wait=False)


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_nobody_else_writes_a_locked_file(w: World, kind: str) -> None:
    a, b = shared_file(w), again(w)
    w("flock", fd=a, kind=kind)

    for op, args in (
        ("append", {"tokens": [9]}),
        ("truncate", {"length": 1}),
        ("forward", {"tokens": [9]}),
        ("generate", {}),
    ):  # fmt: skip
        with pytest.raises(errors.FileBusy) as caught:
            w(op, fd=b, **args)
        assert caught.value.retry_after_s == 30.0
    with pytest.raises(errors.FileBusy):
        w("open", path="/tmp/a", flags=RDWR | TRUNC)
    assert w("forward_many", items=(Forward(b, pack_tokens([9])),)).errors[0].reason == "EBUSY"
    assert w.tokens(b) == [1, 2, 3]
    w("append", fd=a, tokens=[4])
    assert w.tokens(b) == [1, 2, 3, 4]
    w("flock", fd=a, kind="unlock")
    w("append", fd=b, tokens=[5])


def test_who_only_looks_is_not_held_up(w: World) -> None:
    a, b = shared_file(w), again(w)
    w("flock", fd=a)

    w.start("forward", fd=b)
    w.step()
    w.start("sample", fd=b)
    w.step()

    assert w.tokens(w("fork", fd=b).fd) == [1, 2, 3]


def test_a_lock_is_granted_in_the_order_of_asking(w: World) -> None:
    fds = [shared_file(w), *(again(w) for _ in range(4))]
    w("flock", fd=fds[0])
    calls = [
        w.start("flock", fd=fd, kind=kind) for fd, kind in zip(fds[1:], ["shared", "exclusive", "shared", "shared"], strict=True)
    ]
    assert all(waits(w, call) for call in calls)

    w("flock", fd=fds[0], kind="unlock")
    assert [waits(w, call) for call in calls] == [False, True, True, True]  # a later reader does not pass the writer
    w("flock", fd=fds[1], kind="unlock")
    assert [waits(w, call) for call in calls[1:]] == [False, True, True]
    w("flock", fd=fds[2], kind="unlock")

    assert not any(waits(w, call) for call in calls)


def test_a_lease_that_ran_out_is_taken_away_and_its_holder_told_once(w: World) -> None:
    a, b = shared_file(w), again(w)
    w("flock", fd=a, lease_s=2.0)
    call = w.start("flock", fd=b, lease_s=100.0)

    w.pass_time(2)
    w("append", fd=b, tokens=[9])
    with pytest.raises(errors.StaleFile):
        w("append", fd=a, tokens=[4])
    with pytest.raises(errors.FileBusy):
        w("append", fd=a, tokens=[4])
    w("flock", fd=b, kind="unlock")
    w("append", fd=a, tokens=[4])

    assert w.result(call).lease_s == 100.0
    assert w.tokens(a) == [1, 2, 3, 9, 4]


def test_the_holder_that_lost_its_lock_is_told_even_if_it_locks_again(w: World) -> None:
    fd = shared_file(w)
    w("flock", fd=fd, lease_s=1.0)
    w.pass_time(1)
    w("flock", fd=fd)

    with pytest.raises(errors.StaleFile):
        w("generate", fd=fd)
    w("append", fd=fd, tokens=[4])


def test_locking_again_renews_the_lease(w: World) -> None:
    fd = shared_file(w)
    w("flock", fd=fd, lease_s=2.0)
    for _ in range(3):
        w.pass_time(1.5)
        w("flock", fd=fd, lease_s=2.0)

    w("append", fd=fd, tokens=[4])

    w.pass_time(2)
    assert w("stat", fd=fd).file.locked == ""


def test_the_last_of_the_dups_lets_go(w: World) -> None:
    a, b = shared_file(w), again(w)
    second = w("dup", fd=a).fd
    w("flock", fd=second)
    call = w.start("flock", fd=b)
    w("append", fd=a, tokens=[4])

    w("close", fd=second)
    assert waits(w, call)
    w("close", fd=a)

    assert not waits(w, call)


def test_the_end_of_a_process_lets_go(w: World) -> None:
    pid = w.program()
    mine = shared_file(w)
    theirs = again(w, by=pid)
    w("flock", by=pid, fd=theirs)
    call = w.start("flock", fd=mine)

    w.exited(pid, 137)

    assert not waits(w, call)


def test_a_call_that_gave_up_holds_up_nobody(w: World) -> None:
    fds = [shared_file(w), *(again(w) for _ in range(3))]
    w("flock", fd=fds[0], kind="shared")
    late = w.start("flock", fd=fds[1], timeout_s=2.0)
    cancelled = w.start("flock", fd=fds[2], kind="exclusive")
    reader = w.start("flock", fd=fds[3], kind="shared")

    w.pass_time(2)
    with pytest.raises(errors.TimedOut):
        w.result(late)
    assert waits(w, reader)
    w("cancel", target=cancelled)

    assert not waits(w, reader)


def test_closing_the_fd_ends_the_call_that_waits_through_it(w: World) -> None:
    a, b = shared_file(w), again(w)
    w("flock", fd=a)
    call = w.start("flock", fd=b)

    w("close", fd=b)

    with pytest.raises(errors.Interrupted):
        w.result(call)


def test_an_upgrade_waits_for_the_other_readers_and_goes_before_the_queue(w: World) -> None:
    a, b, c = shared_file(w), again(w), again(w)
    w("flock", fd=a, kind="shared")
    w("flock", fd=b, kind="shared")
    queued = w.start("flock", fd=c, kind="exclusive")
    upgrade = w.start("flock", fd=a, kind="exclusive")
    assert waits(w, upgrade)

    w("flock", fd=b, kind="unlock")

    assert not waits(w, upgrade) and waits(w, queued)


def test_of_two_that_upgrade_the_second_is_refused(w: World) -> None:
    a, b = shared_file(w), again(w)
    w("flock", fd=a, kind="shared")
    w("flock", fd=b, kind="shared")
    first = w.start("flock", fd=a, kind="exclusive")

    with pytest.raises(errors.WouldBlock):
        w("flock", fd=b, kind="exclusive")
    w("flock", fd=b, kind="unlock")

    assert not waits(w, first)


def test_a_call_becomes_an_upgrade_when_a_dup_of_its_fd_is_let_in(w: World) -> None:
    """It goes before the queue, or it would wait for one that waits for it."""
    a, b, c = shared_file(w), again(w), again(w)
    dup = w("dup", fd=b).fd
    w("flock", fd=a)
    reader = w.start("flock", fd=b, kind="shared")
    queued = w.start("flock", fd=c)
    upgrade, another = (w.start("flock", fd=dup) for _ in range(2))

    w("flock", fd=a, kind="shared")

    assert not waits(w, reader) and waits(w, upgrade)
    with pytest.raises(errors.WouldBlock):
        w.result(another)
    with pytest.raises(errors.WouldBlock):
        w("flock", fd=a)
    w("flock", fd=a, kind="unlock")
    assert not waits(w, upgrade) and waits(w, queued)


@pytest.mark.parametrize("lost", ["unlocked", "expired"])
def test_an_upgrade_whose_holder_lost_the_lock_keeps_its_place_and_refuses_nobody(w: World, lost: str) -> None:
    a, b, c, d = shared_file(w), *(again(w) for _ in range(3))
    w("flock", fd=a, kind="shared", lease_s=9.0)
    w("flock", fd=b, kind="shared", lease_s=9.0)
    w("flock", fd=c, kind="shared", lease_s=9.0)
    queued = w.start("flock", fd=d)
    first = w.start("flock", fd=a, lease_s=2.0)
    if lost == "expired":
        w.pass_time(3.0)
    else:
        w("flock", fd=a, kind="unlock")

    second = w.start("flock", fd=b)
    assert waits(w, second)
    w("flock", fd=c, kind="unlock")

    assert not waits(w, second) and waits(w, first)
    w("flock", fd=b, kind="unlock")
    assert not waits(w, first) and waits(w, queued)


def test_a_downgrade_lets_readers_in(w: World) -> None:
    a, b = shared_file(w), again(w)
    w("flock", fd=a)
    call = w.start("flock", fd=b, kind="shared")

    w("flock", fd=a, kind="shared")

    assert not waits(w, call)


def test_a_lock_waits_until_a_write_that_began_before_is_over(w: World) -> None:
    a, b = shared_file(w), again(w)
    w.start("generate", fd=a)

    call = w.start("flock", fd=b)
    assert waits(w, call)
    assert w("flock", fd=a, kind="unlock").lease_s == 0.0
    w.step()

    assert not waits(w, call)


def test_a_holder_locks_while_its_own_call_writes(w: World) -> None:
    fd = shared_file(w)
    w.start("generate", fd=fd)

    w("flock", fd=fd, wait=False)

    w.step()


def test_a_reader_may_share_but_not_exclude(w: World) -> None:
    shared_file(w)
    fd = again(w, flags=0)

    w("flock", fd=fd, kind="shared")
    with pytest.raises(errors.BadFile):
        w("flock", fd=fd, kind="exclusive")


@pytest.mark.parametrize("args", [{"kind": "mine"}, {"lease_s": 0.0}, {"lease_s": 1e9}, {"timeout_s": 0.0}])
def test_flock_refuses_and_changes_nothing(w: World, args: dict) -> None:
    fd = shared_file(w)

    with pytest.raises(errors.InvalidArgument):
        w("flock", fd=fd, **args)

    assert w("stat", fd=fd).file.locked == ""


def test_why_names_who_holds_it_as_far_as_one_may_see(w: World) -> None:
    other = w.kernel.connect(OTHER, "client", 0)
    pid = w.program()
    mine = shared_file(w)
    hidden, held = again(w, by=other), again(w, by=pid)
    w("flock", by=other, fd=hidden, kind="shared", lease_s=9.0)
    w("flock", by=pid, fd=held, kind="shared", lease_s=4.0)
    w.start("flock", fd=mine)
    w.start("flock", fd=again(w))

    lines = [(line.cause, line.detail) for line in w("why", pid=w.pid).threads if line.op == "flock"]

    assert lines == [
        ("lock", f"held by process {pid}, others (shared); the lease ends in 9.0 s"),
        ("lock", f"held by process {pid}, others (shared); the lease ends in 9.0 s; calls before it: 1"),
    ]


def test_why_says_that_a_write_is_not_over(w: World) -> None:
    a, b = shared_file(w), again(w)
    w.start("generate", fd=a)
    w.start("flock", fd=b)

    details = [line.detail for line in w("why", pid=w.pid).threads if line.op == "flock"]

    assert details == ["a call that began before still writes the file"]
    w.step()


@dataclass(eq=False)
class Opened:
    """An open file of the model: how it has the file locked, until when; whether it lost a lock."""

    fds: list[int]
    kind: str = ""
    until: int = 0
    lost: bool = False


@dataclass(eq=False)
class Asked:
    """A call that waits."""

    by: Opened
    kind: str
    lease: int

    @property
    def upgrades(self) -> bool:
        return self.kind == "exclusive" and self.by.kind == "shared"


class Locks(RuleBasedStateMachine):
    """One file, several open files. The model is a list of who holds what, and a queue, an upgrade first."""

    def __init__(self) -> None:
        super().__init__()
        self.w = World()
        self.now = 0
        self.opened: list[Opened] = []
        self.queue: dict[int, Asked] = {}  # by call
        self.granted: dict[int, Asked] = {}

    @initialize(num_opened=st.integers(2, 4))
    def begin(self, num_opened: int) -> None:
        self.opened = [Opened([shared_file(self.w)]), *(Opened([again(self.w)]) for _ in range(num_opened - 1))]

    def choose(self, n: int) -> Opened:
        return self.opened[n % len(self.opened)]

    def outcome(self, op: str, **args: object) -> str:
        try:
            self.w(op, **args)
        except SymphonyError as error:
            return error.reason
        return ""

    def free_for(self, who: Opened, kind: str) -> bool:
        return not any(o.kind and "exclusive" in (o.kind, kind) for o in self.opened if o is not who)

    def grant(self, call: int) -> None:
        asked = self.queue.pop(call)
        self.give(asked.by, asked.kind, asked.lease)
        self.granted[call] = asked

    def give(self, who: Opened, kind: str, lease: int) -> None:
        """What waits through its dups may have become an upgrade: the first goes first, others are refused."""
        who.kind, who.until = kind, self.now + lease
        upgrades = [call for call, asked in self.queue.items() if asked.upgrades]
        for call in upgrades[1:]:
            del self.queue[call]
            with pytest.raises(errors.WouldBlock):
                self.w.result(call)
        if upgrades:
            self.queue = {upgrades[0]: self.queue.pop(upgrades[0]), **self.queue}

    def settle(self) -> None:
        """Grant what can be granted, in order, until one must wait."""
        while self.queue:
            call = next(iter(self.queue))
            if not self.free_for(self.queue[call].by, self.queue[call].kind):
                return
            self.grant(call)

    @rule(n=st.integers(0, 9), kind=st.sampled_from(["shared", "exclusive"]), lease=st.integers(1, 6), wait=st.booleans())
    def lock(self, n: int, kind: str, lease: int, wait: bool) -> None:
        who = self.choose(n)
        args = {"fd": who.fds[-1], "kind": kind, "lease_s": float(lease), "wait": wait}
        if self.free_for(who, kind) and (who.kind or not self.queue):
            assert self.outcome("flock", **args) == ""
            self.give(who, kind, lease)
            self.settle()
            return
        asked = Asked(who, kind, lease)
        if not wait or (asked.upgrades and any(other.upgrades for other in self.queue.values())):
            assert self.outcome("flock", **args) == "EAGAIN"
            return
        call = self.w.start("flock", **args)
        if asked.upgrades:
            who.until = self.now + lease
            self.queue = {call: asked, **self.queue}
        else:
            self.queue[call] = asked

    @rule(n=st.integers(0, 9))
    def unlock(self, n: int) -> None:
        who = self.choose(n)
        assert self.outcome("flock", fd=who.fds[0], kind="unlock") == ""
        who.kind = ""
        self.settle()

    @rule(n=st.integers(0, 9))
    def write(self, n: int) -> None:
        who = self.choose(n)
        wanted = "ESTALE" if who.lost else "EBUSY" if any(o.kind for o in self.opened if o is not who) else ""
        who.lost = False
        assert self.outcome("truncate", fd=who.fds[0], length=0) == wanted

    @rule(n=st.integers(0, 9))
    def dup(self, n: int) -> None:
        who = self.choose(n)
        if len(who.fds) < 3:
            who.fds.append(self.w("dup", fd=who.fds[0]).fd)

    @rule(n=st.integers(0, 9))
    def close(self, n: int) -> None:
        who = self.choose(n)
        if len(self.opened) == 1 and len(who.fds) == 1:
            return
        fd = who.fds.pop(0)
        interrupted = [c for c, asked in self.queue.items() if self.w.kernel.processes[self.w.pid].calls[c].pending.fd == fd]
        self.w("close", fd=fd)
        for call in interrupted:
            del self.queue[call]
            assert not self.w.is_open(call)
        if not who.fds:
            self.opened.remove(who)
            who.kind = ""
        self.settle()

    @rule(n=st.integers(0, 9))
    def cancel(self, n: int) -> None:
        if self.queue:
            call = list(self.queue)[n % len(self.queue)]
            del self.queue[call]
            self.w("cancel", target=call)
            self.settle()

    @rule()
    def pass_a_second(self) -> None:
        self.now += 1
        for who in self.opened:
            if who.kind and who.until <= self.now:
                who.kind, who.lost = "", True
        self.w.pass_time(1)
        self.settle()

    @invariant()
    def the_kernel_agrees(self) -> None:
        self.w.check()
        if not self.opened:
            return
        kinds = {o.kind for o in self.opened} - {""}
        assert self.w("stat", fd=self.opened[0].fds[0]).file.locked == "".join(kinds)
        assert all(self.w.is_open(call) for call in self.queue)
        assert not any(self.w.is_open(call) for call in self.granted)

    def teardown(self) -> None:
        self.w.disconnect()
        self.w.assert_empty()


Locks.TestCase.settings = settings(max_examples=count(60, 3000), stateful_step_count=40, deadline=None)
TestLocks = Locks.TestCase
