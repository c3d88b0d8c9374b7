"""Process trees against a dict model: spawn, wait, signals, deaths and time in any order.

The model is pid -> (parent, state, detached, signals). Whoever ends takes along what it must and nothing else; what is left at
the end is nothing.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import count
from tests.unit.kernel.world import ME, SECOND, World
from vllm_symphony.abi.types import OpenFlags, ResourceLimits
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import Signalled

GRACE_NS = 5 * SECOND
pick = st.integers(0, 1 << 20)


@dataclass
class Proc:
    """A program, as the model sees it."""

    parent: int | None
    detached: bool
    ended: bool = False
    died: int = 0  # order of deaths
    grace_from_ns: int | None = None  # its TERM, or its own exit
    signals: list[str] = field(default_factory=list)
    exiting: bool = False


ENOUGH = ResourceLimits(processes=1000, depth=1000)  # how limits count is tests/model/test_budgets.py's business


class Tree(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.w = World(ended=1000)
        self.edge = self.w.kernel.connect(ME, "edge", 0)
        self.procs: dict[int, Proc] = {}
        self.waits: list[tuple[int, int, int | None]] = []  # call, by, wanted
        self.deaths = 0

    def live(self) -> list[int]:
        return [pid for pid, p in self.procs.items() if not p.ended]

    def callers(self) -> list[int]:
        """Who may still make calls."""
        return [self.w.pid] + [pid for pid in self.live() if not (self.procs[pid].exiting or "KILL" in self.procs[pid].signals)]

    @rule(n=pick, detach=st.booleans(), edge=st.booleans())
    def spawn(self, n: int, detach: bool, edge: bool) -> None:
        by = self.edge if edge else self.callers()[n % len(self.callers())]
        if by in self.procs and self.procs[by].signals:
            call = self.w.start("spawn", by=by, detach=detach)
            assert self.w.replies[by, call].reason == "EINTR"
            return
        pid = self.w.program(parent=by, detach=detach, limits=ENOUGH)
        self.procs[pid] = Proc(None if edge else by, detach)

    @rule(n=pick, wanted=pick, any_child=st.booleans())
    def wait(self, n: int, wanted: int, any_child: bool) -> None:
        by = self.callers()[n % len(self.callers())]
        pid = None if any_child or not self.procs else list(self.procs)[wanted % len(self.procs)]
        call = self.w.start("wait", by=by, pid=pid)
        children = {p: s for p, s in self.procs.items() if s.parent == by and pid in (None, p)}
        ended = sorted((s.died, p) for p, s in children.items() if s.ended)
        if not children:
            assert self.w.replies[by, call].reason == "ECHILD"
        elif ended:
            assert self.w.result(call, by).pid == ended[0][1]
            del self.procs[ended[0][1]]
        else:
            self.waits.append((call, by, pid))

    @precondition(lambda self: self.procs)
    @rule(n=pick, kill=st.booleans())
    def signal(self, n: int, kill: bool) -> None:
        pid = list(self.procs)[n % len(self.procs)]
        self.w("kill", pid=pid, signal="KILL" if kill else "TERM")
        if kill:
            self._kill(pid)
        else:
            self._term(pid)

    def _term(self, pid: int) -> None:
        proc = self.procs[pid]
        if not proc.ended and not proc.signals:
            proc.signals.append("TERM")
            if proc.grace_from_ns is None:
                proc.grace_from_ns = self.w.now_ns

    def _kill(self, pid: int) -> None:
        proc = self.procs[pid]
        if not proc.ended and "KILL" not in proc.signals:
            proc.signals.append("KILL")
            self.waits = [wait for wait in self.waits if wait[1] != pid]

    @precondition(lambda self: self.live())
    @rule(n=pick, code=st.sampled_from([0, 1, 137]))
    def os_process_ends(self, n: int, code: int) -> None:
        pid = self.live()[n % len(self.live())]
        self.w.now_ns += 1
        self.deaths += 1
        self.w.exited(pid, code)
        proc = self.procs[pid]
        proc.ended, proc.died = True, self.deaths
        self.waits = [wait for wait in self.waits if wait[1] != pid]
        for child, other in list(self.procs.items()):
            if other.parent == pid:
                other.parent = None
                if not other.detached:
                    self._term(child)
        for call, by, wanted in list(self.waits):
            if by != proc.parent:
                continue
            mine = [p for p, s in self.procs.items() if s.parent == by and wanted in (None, p)]
            if pid in self.procs and pid in mine:
                assert self.w.result(call, by).pid == pid
                del self.procs[pid]
                self.waits.remove((call, by, wanted))
            elif not mine:
                assert self.w.replies[by, call].reason == "ECHILD"
                self.waits.remove((call, by, wanted))

    @precondition(lambda self: self.callers()[1:])
    @rule(n=pick)
    def reports_its_exit(self, n: int) -> None:
        pid = self.callers()[1:][n % (len(self.callers()) - 1)]
        self.w("exit", by=pid, code=0)
        self.procs[pid].exiting = True
        if self.procs[pid].grace_from_ns is None:
            self.procs[pid].grace_from_ns = self.w.now_ns

    @rule(seconds=st.integers(1, 4))
    def time_passes(self, seconds: int) -> None:
        self.w.pass_time(seconds)
        for pid, proc in self.procs.items():
            if not proc.ended and proc.grace_from_ns is not None and self.w.now_ns >= proc.grace_from_ns + GRACE_NS:
                self._kill(pid)

    @rule(n=pick)
    def works(self, n: int) -> None:
        by = self.callers()[n % len(self.callers())]
        fd = self.w.file([1, 2], by=by)
        self.w.start("forward", by=by, fd=fd, tokens=[3])
        self.w.start("sleep", by=by, seconds=3.0)
        self.w.start("open", by=by, path="/shared", flags=int(OpenFlags.CREAT | OpenFlags.RDWR))

    @rule()
    def device_steps(self) -> None:
        self.w.reap()
        if self.w.jobs:
            self.w.step()

    @invariant()
    def the_tree_is_the_models(self) -> None:
        self.w.check()
        shown = {p.pid: p for p in self.w("ps").processes}
        assert shown.keys() == self.procs.keys()
        signals: dict[int, list[str]] = {}
        for sent in self.w.sent(Signalled):
            signals.setdefault(sent.pid, []).append(sent.signal)
        for pid, proc in self.procs.items():
            assert (shown[pid].state == "zombie", shown[pid].parent) == (proc.ended, proc.parent)
            assert signals.get(pid, []) == proc.signals
        for call, by, _ in self.waits:
            assert self.w.is_open(call, by)

    def teardown(self) -> None:
        self.w.disconnect()
        self.w.disconnect(self.edge)
        for pid in self.live():
            self.w.exited(pid, 137)
        self.w.reap()
        self.w.check()
        self.w.assert_empty()
        assert not any(isinstance(r, SymphonyError) and r.reason == "EIO" for r in self.w.replies.values())


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=count(100, 2000), stateful_step_count=30, deadline=None)
