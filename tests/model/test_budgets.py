"""Trees of processes with limits against a dict model: who may use how much more, at any moment, in any order of signals and ends.

The model knows for each program its limits, its parent at birth and the tokens that it used itself. Everything else follows: a
budget has used what all that was ever born below it has used, and lets nobody pass what it allows.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.counts import count
from tests.unit.kernel.world import World
from vllm_symphony.abi.types import Pid, ResourceLimits
from vllm_symphony.errors import Interrupted, SymphonyError
from vllm_symphony.kernel.effect import ForwardJob, GenerateJob

pick = st.integers(0, 1 << 20)
maybe = st.one_of(st.none(), st.integers(0, 40))


@dataclass
class Proc:
    """A program, as the model sees it."""

    born_of: int | None
    limits: ResourceLimits
    fd: int = 0
    used: int = 0
    cpu_s: float = 0.0
    ended: bool = False
    killed: bool = False
    stopped: bool = False
    held: list[int] = field(default_factory=list)  # calls that wait for CONT


class Budgets(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.w = World(ended=1000, program=ResourceLimits())
        self.procs: dict[int, Proc] = {}
        self.jobs: dict[int, tuple[int, int]] = {}  # of each job in flight: whose, and how many tokens are kept free for it

    # ---- the model

    def live(self) -> list[int]:
        return [pid for pid, p in self.procs.items() if not p.ended]

    def callers(self) -> list[int]:
        return [pid for pid in self.live() if not (self.procs[pid].killed or self.procs[pid].stopped)]

    def above(self, pid: int | None) -> list[int]:
        """It and its ancestors."""
        chain = []
        while pid is not None:
            chain.append(pid)
            pid = self.procs[pid].born_of
        return chain

    def below(self, pid: int) -> list[int]:
        """It and all that were ever born below it."""
        return [other for other in self.procs if pid in self.above(other)]

    def used(self, pid: int) -> int:
        return sum(self.procs[other].used for other in self.below(pid))

    def held(self, pid: int) -> int:
        return sum(tokens for whose, tokens in self.jobs.values() if pid in self.above(whose))

    def left(self, pid: int) -> int:
        limits = ((self.procs[p].limits.tokens, p) for p in self.above(pid))
        return min((max(0, limit - self.used(p) - self.held(p)) for limit, p in limits if limit is not None), default=1 << 30)

    def may_spawn(self, pid: int) -> bool:
        for distance, p in enumerate(self.above(pid)):
            limits = self.procs[p].limits
            running = sum(not self.procs[other].ended for other in self.below(p))
            if limits.processes is not None and running >= limits.processes:
                return False
            if limits.depth is not None and limits.depth <= distance:
                return False
        return True

    def is_out_of_time(self, pid: int) -> bool:
        spent = ((self.procs[p].limits.cpu_s, sum(self.procs[o].cpu_s for o in self.below(p))) for p in self.above(pid))
        return any(limit is not None and used >= limit for limit, used in spent)

    # ---- what happens

    @rule(n=pick, tokens=maybe, processes=st.one_of(st.none(), st.integers(1, 4)), depth=st.one_of(st.none(), st.integers(0, 2)),
          cpu=st.one_of(st.none(), st.just(3.0)), top=st.booleans(), detach=st.booleans())  # fmt: skip
    def spawn(
        self, n: int, tokens: int | None, processes: int | None, depth: int | None, cpu: float | None, top: bool, detach: bool
    ) -> None:
        callers = [pid for pid in self.callers() if not self.w.kernel.processes[Pid(pid)].is_leaving]
        by = None if top or not callers else callers[n % len(callers)]
        limits = ResourceLimits(tokens=tokens, processes=processes, depth=depth, cpu_s=cpu)
        if by is not None and not self.may_spawn(by):
            call = self.w.start("spawn", by=by, source="x", limits=limits)
            assert self.w.replies[by, call].reason == "EDQUOT"
            return
        pid = self.w.program(parent=by, limits=limits, detach=detach)
        self.procs[pid] = Proc(by, limits)
        self.procs[pid].fd = self.w("open", by=pid, flags=16).fd

    @precondition(lambda self: self.callers())
    @rule(n=pick, tokens=st.integers(1, 12))
    def append(self, n: int, tokens: int) -> None:
        pid = self.callers()[n % len(self.callers())]
        left = self.left(pid)
        call = self.w.start("append", by=pid, fd=self.procs[pid].fd, tokens=[1] * tokens)
        reply = self.w.replies[pid, call]
        if isinstance(reply, SymphonyError):
            assert reply.reason in ("EBUSY", "EFBIG") or (reply.reason == "EDQUOT" and left < tokens)
        else:
            assert tokens <= left
            self.procs[pid].used += tokens

    @precondition(lambda self: self.callers())
    @rule(n=pick, tokens=st.integers(1, 12), generate=st.booleans())
    def begin(self, n: int, tokens: int, generate: bool) -> None:
        pid = self.callers()[n % len(self.callers())]
        left, before = self.left(pid), set(self.w.jobs)
        args = {"max_tokens": tokens} if generate else {"tokens": [1] * tokens}
        call = self.w.start("generate" if generate else "forward", by=pid, fd=self.procs[pid].fd, **args)
        started = set(self.w.jobs) - before
        if not started:
            reason = self.w.replies[pid, call].reason
            assert reason in ("EBUSY", "EFBIG", "EINVAL") or (
                reason == "EDQUOT" and (self.is_out_of_time(pid) or left < (1 if generate else tokens))
            )
            return
        (job,) = started
        assert left >= 1 and not self.is_out_of_time(pid)
        if generate:
            assert self.w.jobs[job].max_tokens <= min(tokens, left)
        self.jobs[job] = (pid, 0 if generate else tokens)

    @precondition(lambda self: self.w.jobs)
    @rule(ok=st.booleans())
    def device_steps(self, ok: bool) -> None:
        self.w.reap()
        self.forget_jobs()
        if not self.w.jobs:
            return
        job = self.w.job()
        pid, tokens = self.jobs.pop(job.job)
        if isinstance(job, GenerateJob):
            made = min(job.max_tokens, 3) if ok else 0
            if made:
                self.w.deliver([7] * made)
                self.procs[pid].used += made
            if job.job in self.w.jobs:
                self.w.step()
        elif ok:
            assert isinstance(job, ForwardJob)
            self.w.step()
            self.procs[pid].used += tokens
        else:
            self.w.fail()

    def forget_jobs(self) -> None:
        for job in [job for job in self.jobs if job not in self.w.jobs]:
            del self.jobs[job]

    @precondition(lambda self: self.live())
    @rule(n=pick, seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def burns(self, n: int, seconds: float) -> None:
        pid = self.live()[n % len(self.live())]
        self.procs[pid].cpu_s += seconds
        self.w.kernel.used(Pid(pid), self.procs[pid].cpu_s, 0, self.w.now_ns)
        self.w.drain()

    @precondition(lambda self: self.live())
    @rule(n=pick, signal=st.sampled_from(["STOP", "STOP", "CONT", "CONT", "TERM", "KILL"]))
    def signal(self, n: int, signal: str) -> None:
        pid = self.live()[n % len(self.live())]
        proc = self.procs[pid]
        self.w("kill", pid=pid, signal=signal)
        if signal == "KILL":
            proc.killed, proc.stopped, proc.held = True, False, []
        elif signal == "STOP" and not proc.killed:
            proc.stopped = True
        elif signal == "CONT":
            proc.stopped = False
            assert not any(self.w.is_open(call, pid) for call in proc.held)
            proc.held = []

    @precondition(lambda self: any(self.procs[pid].stopped for pid in self.live()))
    @rule(n=pick)
    def a_stopped_one_asks(self, n: int) -> None:
        stopped = [pid for pid in self.live() if self.procs[pid].stopped]
        pid = stopped[n % len(stopped)]
        call = self.w.start("getpid", by=pid)
        assert self.w.is_open(call, pid) != self.w.kernel.processes[Pid(pid)].killed
        self.procs[pid].held.append(call)

    @rule(seconds=st.integers(1, 6))
    def time_passes(self, seconds: int) -> None:
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Some are killed by it: their grace is over."""
        self.w.pass_time(seconds)
        for pid in self.live():
            if self.w.kernel.processes[Pid(pid)].killed:
                self.procs[pid].killed, self.procs[pid].stopped, self.procs[pid].held = True, False, []

    @precondition(lambda self: self.live())
    @rule(n=pick, code=st.sampled_from([0, 1, 137]))
    def os_process_ends(self, n: int, code: int) -> None:
        pid = self.live()[n % len(self.live())]
        process, told = self.w.kernel.processes[Pid(pid)], self.w.kernel.processes[Pid(pid)].exhausted
        killed = process.killed
        used = max(self.procs[pid].cpu_s, 0.5)
        self.w.exited(pid, code)
        self.procs[pid].ended, self.procs[pid].stopped, self.procs[pid].cpu_s = True, False, used
        assert (process.exit.reason == "limit") == bool(told and (code or killed)), process.exit

    @precondition(lambda self: any(p.ended for p in self.procs.values()))
    @rule()
    def a_parent_waits(self) -> None:
        by = self.w.pid
        before = set(self.w("ps").processes)
        call = self.w.start("wait", by=by, timeout_s=0.5)
        if self.w.is_open(call, by):
            self.pass_time(0.5)
        assert len(before) - len(set(self.w("ps").processes)) in (0, 1)

    # ---- what always holds

    @invariant()
    def every_budget_has_used_what_its_tree_has(self) -> None:
        self.w.check()
        shown = {p.pid: p for p in self.w("ps").processes}
        for pid in self.live():
            used = self.w("getrlimit", pid=pid).used
            assert used.tokens == self.used(pid), f"{pid} counts {used.tokens}, its tree has used {self.used(pid)}"
            assert used.processes == sum(not self.procs[other].ended for other in self.below(pid))
            assert shown[pid].usage.tokens_in + shown[pid].usage.tokens_out == self.procs[pid].used
            assert (shown[pid].state == "stopped") == self.procs[pid].stopped
            limits = (self.procs[p].limits.tokens for p in self.above(pid))
            assert all(limit is None or self.used(p) <= limit + 3 for p, limit in zip(self.above(pid), limits, strict=True))

    def teardown(self) -> None:
        everything = sum(p.used for p in self.procs.values())
        for job in list(self.jobs):
            self.w.kernel.jobs[job].interrupt(self.w.kernel, Interrupted("the end"), self.w.now_ns)
        self.w.drain()
        self.w.reap()
        self.w.disconnect()
        for pid in self.live():
            self.w.exited(pid, 137)
        self.w.reap()
        self.w.check()
        self.w.assert_empty()
        budget = self.w.kernel.budgets["me"]
        assert (budget.tokens, budget.processes, budget.held) == (everything, 0, 0)
        assert not any(isinstance(r, SymphonyError) and r.reason == "EIO" for r in self.w.replies.values())


TestBudgets = Budgets.TestCase
TestBudgets.settings = settings(max_examples=count(100, 2000), stateful_step_count=40, deadline=None)
