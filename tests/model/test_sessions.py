"""Sessions against a dict model: made, lost, taken up, called from outside, ended, with children and time in any order.

The model is pid -> (lease, connected, when the lease ends, outside calls in flight). A session ends when it is told to, or when
nobody was connected for its lease, counted from the end of the last call from outside; its children are told to end with it, and
who called from outside hears of it.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import count
from tests.unit.kernel.world import ME, OTHER, SECOND, World
from vllm_symphony.abi.calls import Exit, NoArgs, Random, Sleep
from vllm_symphony.errors import NoSuchProcess, SymphonyError
from vllm_symphony.kernel.effect import Hangup

pick = st.integers(0, 1 << 20)


@dataclass
class Session:
    """A session, as the model sees it."""

    lease_ns: int
    connected: bool = True
    ends_ns: int = 0  # its lease, while nobody is connected
    ended: bool = False
    reason: str = ""
    outside: dict[int, int] = field(default_factory=dict)  # sleeps from outside: call -> when it is over
    drawn: int = 0
    children: list[int] = field(default_factory=list)


class Sessions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.w = World(ended=1000)
        self.edge = self.w.kernel.connect(ME, "edge", 0)
        self.sessions: dict[int, Session] = {}
        self.ended: list[int] = []
        self.refused: set[int] = set()  # outside calls whose session ended under them
        self.answered: set[int] = set()

    def open(self) -> list[int]:
        return [pid for pid, s in self.sessions.items() if not s.ended]

    def one(self, n: int) -> int:
        return self.open()[n % len(self.open())]

    def outside(self, pid: int, op: str, args: object) -> int:
        self.w.num_calls += 1
        self.w.kernel.call(self.edge, self.w.num_calls, 0, op, args, self.w.now_ns, ME, session=pid)
        self.w.drain()
        return self.w.num_calls

    def renew(self, session: Session) -> None:
        if not session.connected:
            session.ends_ns = self.w.now_ns + session.lease_ns

    def end(self, pid: int, reason: str) -> None:
        session = self.sessions[pid]
        session.ended, session.reason = True, reason
        self.ended.append(pid)
        self.refused |= session.outside.keys()

    @rule(lease_s=st.integers(1, 5))
    def opens(self, lease_s: int) -> None:
        pid = self.w.kernel.connect(ME, "client", self.w.now_ns, lease_s=float(lease_s))
        self.sessions[pid] = Session(lease_s * SECOND)

    @precondition(lambda self: self.open())
    @rule(n=pick)
    def loses_its_connection(self, n: int) -> None:
        session = self.sessions[self.one(n)]
        self.w.disconnect(self.one(n))
        session.connected = False
        self.renew(session)

    @precondition(lambda self: self.sessions)
    @rule(n=pick, stranger=st.booleans())
    def is_taken_up(self, n: int, stranger: bool) -> None:
        pid = list(self.sessions)[n % len(self.sessions)]
        session = self.sessions[pid]
        try:
            self.w.kernel.resume(pid, OTHER if stranger else ME)
        except NoSuchProcess:
            assert stranger or session.ended
        else:
            assert not stranger and not session.ended
            session.connected = True

    @precondition(lambda self: self.open())
    @rule(n=pick, keep_alive=st.booleans())
    def is_called_from_outside(self, n: int, keep_alive: bool) -> None:
        session = self.sessions[self.one(n)]
        call = self.outside(self.one(n), *(("keep_alive", NoArgs()) if keep_alive else ("random", Random(8))))
        assert self.w.result(call, self.edge)
        session.drawn += not keep_alive
        self.renew(session)

    @precondition(lambda self: self.open())
    @rule(n=pick, seconds=st.integers(1, 8))
    def sleeps_from_outside(self, n: int, seconds: int) -> None:
        session = self.sessions[self.one(n)]
        call = self.outside(self.one(n), "sleep", Sleep(float(seconds)))
        session.outside[call] = self.w.now_ns + seconds * SECOND
        self.renew(session)

    @precondition(lambda self: self.open())
    @rule(n=pick)
    def starts_a_child(self, n: int) -> None:
        pid = self.one(n)
        self.sessions[pid].children.append(self.w.program(parent=pid))

    @precondition(lambda self: self.open())
    @rule(n=pick, how=st.sampled_from(["exit", "exit from outside", "kill"]))
    def ends(self, n: int, how: str) -> None:
        pid = self.one(n)
        if how == "exit":
            self.w("exit", by=pid, code=0)
        elif how == "kill":
            self.w("kill", pid=pid, signal="KILL")
        else:
            assert self.w.result(self.outside(pid, "exit", Exit(0)), self.edge)
        self.end(pid, "signal" if how == "kill" else "exit")

    @rule(tenths=st.sampled_from([1, 5, 10, 25]))
    def time_passes(self, tenths: int) -> None:
        for _ in range(tenths):
            self.w.pass_time(0.1)
            now_ns = self.w.now_ns
            for pid in self.open():
                session = self.sessions[pid]
                for call, over_ns in list(session.outside.items()):
                    if now_ns >= over_ns:
                        del session.outside[call]
                        self.answered.add(call)
                        self.renew(session)
                if not session.connected and not session.outside and now_ns >= session.ends_ns:
                    self.end(pid, "lease")

    @invariant()
    def the_kernel_agrees(self) -> None:
        self.w.check()
        shown = {p.pid: p for p in self.w("ps").processes if p.kind == "session"}
        assert shown.keys() == self.sessions.keys()
        for pid, session in self.sessions.items():
            assert (shown[pid].state == "zombie") == session.ended, (pid, session, self.w.now_ns)
            if session.ended:
                assert shown[pid].exit.reason == session.reason
            else:
                assert shown[pid].connected == session.connected
            for child in session.children:
                process = self.w.kernel.processes[child]
                assert process.termed == session.ended
                assert process.orphaned == (("lease" if session.reason == "lease" else "orphan") if session.ended else "")
        assert sorted(h.pid for h in self.w.sent(Hangup)) == sorted(self.ended)
        for call in self.refused:
            assert self.w.replies[self.edge, call].reason == "ESRCH"
        for call in self.answered:
            assert not isinstance(self.w.replies[self.edge, call], SymphonyError)

    def teardown(self) -> None:
        for pid in self.open():
            self.w.kernel.end_session(pid, "over", self.w.now_ns)
        self.w.drain()
        self.w.disconnect()
        self.w.disconnect(self.edge)
        for pid in [child for s in self.sessions.values() for child in s.children]:
            self.w.exited(pid, 143)
        self.w.assert_empty()


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=count(100, 2000), stateful_step_count=30, deadline=None)
