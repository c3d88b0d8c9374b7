"""A kernel with a scripted device and a fake clock, for its tests.

The device keeps tokens of its own, made from effects alone: `World.check` compares them with the kernel's files, so a test that
ends with it has shown that the effects say what the kernel believes. Jobs wait until the test answers them (`step`, `fail`), or
until it lets cancelled ones end (`reap`).
"""

from collections import deque
from typing import Any

from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Credentials, Distribution, ModelInfo, Pid, pack_tokens, unpack_tokens
from vllm_symphony.errors import Interrupted, SymphonyError
from vllm_symphony.kernel import effect as e
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.limits import Limits

ME, OTHER = Credentials("me", scopes=("run",)), Credentials("other", scopes=("run",))
ADMIN = Credentials("root", scopes=("admin", "run"))
MODEL = ModelInfo("fake", vocab_size=100, max_positions=64, page_size=4, num_pages=1000, max_top_k=20, eos_tokens=(2,))
SECOND = 1_000_000_000
ROW = Distribution(0, b"", b"", 0.0, 0.0)
JOBS = (e.ForwardJob, e.GenerateJob, e.SampleJob, e.RowJob, e.TextJob)


class World:
    """Kernel, device and clock. `pid` is a client of principal `me`."""

    def __init__(self, model: ModelInfo = MODEL, **limits: Any) -> None:
        self.kernel = Kernel(model, limits=Limits(**limits), boot_ns=0, epoch_ns=1000 * SECOND, info=lambda: {"host": "test"})
        self.now_ns = 0
        self.effects: list[Any] = []  # all so far
        self.replies: dict[tuple[int, int], Any] = {}
        self.parts: dict[tuple[int, int], list[Any]] = {}
        self.files: dict[int, list[int]] = {}  # the device's
        self.jobs: dict[int, Any] = {}
        self.made: dict[int, list[int]] = {}  # by edits in flight
        self.cancelled: set[int] = set()
        self.launched: deque[Pid] = deque()
        self.num_calls = 0
        self.pid = self.kernel.connect(ME, "client", 0)

    # ---- calls

    def start(self, op: str, *, by: int | None = None, tid: int = 0, cred: Credentials | None = None, **args: Any) -> int:
        """Make a call of process `by` (default: the client); its id. Lists become packed tokens where the ABI wants bytes."""
        self.num_calls += 1
        packed = {key: pack_tokens(value) if isinstance(value, list | range) else value for key, value in args.items()}
        self.kernel.call(Pid(self.pid if by is None else by), self.num_calls, tid, op, CALLS[op].args(**packed), self.now_ns, cred)
        self.drain()
        return self.num_calls

    def call_with(self, op: str, args: object) -> Any:
        """The same with the arguments' dataclass, for those that have a `tid` of their own."""
        self.num_calls += 1
        self.kernel.call(self.pid, self.num_calls, 0, op, args, self.now_ns)
        self.drain()
        return self.result(self.num_calls)

    def __call__(self, op: str, *, by: int | None = None, **args: Any) -> Any:
        """Make a call that answers at once: its result, or its error raised."""
        return self.result(self.start(op, by=by, **args), by)

    def result(self, call_id: int, pid: int | None = None) -> Any:
        reply = self.replies[self.pid if pid is None else pid, call_id]
        if isinstance(reply, SymphonyError):
            raise reply
        return reply

    def is_open(self, call_id: int, pid: int | None = None) -> bool:
        return (self.pid if pid is None else pid, call_id) not in self.replies

    def stream(self, call_id: int, pid: int | None = None) -> list[Any]:
        return self.parts.get((self.pid if pid is None else pid, call_id), [])

    # ---- shorthands

    def file(self, tokens: list[int] | range = range(5), *, by: int | None = None) -> int:
        """An anonymous file with these tokens: its fd."""
        fd: int = self("open", by=by, tokens=tokens).fd
        return fd

    def tokens(self, fd: int, by: int | None = None) -> list[int]:
        return unpack_tokens(self("read", by=by, fd=fd).tokens)

    def program(self, *, parent: int | None = None, **args: Any) -> int:
        """A running program: a child of `parent` (default: the client)."""
        source = None if {"program", "code"} & args.keys() else "async def main(): ..."
        pid: int = self("spawn", by=parent, **{"source": source, **args}).pid
        self.kernel.started(Pid(pid), 1000 + pid, self.now_ns)
        self.drain()
        return pid

    def exited(self, pid: int, code: int = 0, **more: Any) -> None:
        self.kernel.exited(Pid(pid), code, 0.5, self.now_ns, **more)
        self.drain()

    def disconnect(self, pid: int | None = None) -> None:
        self.kernel.disconnected(Pid(self.pid if pid is None else pid), self.now_ns)
        self.drain()

    def pass_time(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)
        self.kernel.tick(self.now_ns)
        self.drain()

    # ---- the device

    def drain(self) -> None:
        effects = self.kernel.effects[:]
        self.kernel.effects.clear()
        self.effects += effects
        for effect in effects:
            match effect:
                case e.Reply(pid, call_id, result):
                    assert (pid, call_id) not in self.replies, "answered twice"
                    self.replies[pid, call_id] = result
                case e.ReplyError(pid, call_id, error):
                    assert (pid, call_id) not in self.replies, "answered twice"
                    self.replies[pid, call_id] = error
                case e.Part(pid, call_id, part):
                    assert (pid, call_id) not in self.replies, "a part after the reply"
                    self.parts.setdefault((pid, call_id), []).append(part)
                case e.Launch(pid=pid):
                    self.launched.append(pid)
                case e.CreateFile(ino, tokens):
                    assert ino not in self.files
                    self.files[ino] = list(tokens)
                case e.ForkFile(src, dst, length):
                    self.files[dst] = self.files[src][:length]
                    assert len(self.files[dst]) == length
                case e.AppendTokens(ino, tokens):
                    self._demand_quiet(ino)
                    self.files[ino] += tokens
                case e.TruncateFile(ino, length):
                    self._demand_quiet(ino)
                    del self.files[ino][length:]
                case e.DropFile(ino):
                    self._demand_quiet(ino)
                    del self.files[ino]
                case e.CancelJob(job):
                    self.cancelled.add(job)
                case e.ForwardJob() | e.GenerateJob() | e.SampleJob() | e.RowJob():
                    assert effect.ino in self.files
                    self.jobs[effect.job] = effect
                case e.ExtractJob(src=src):
                    tokens = self.files[src]
                    self.made[effect.job] = [t for span in effect.spans for t in tokens[span.start : span.stop]]
                    self.jobs[effect.job] = effect
                case e.ConcatJob(srcs=srcs):
                    self.made[effect.job] = [t for src, length in srcs for t in self.files[src][:length]]
                    self.jobs[effect.job] = effect
                case e.TextJob():
                    self.jobs[effect.job] = effect

    def _demand_quiet(self, ino: int) -> None:
        assert all(getattr(job, "ino", None) != ino for job in self.jobs.values()), "a job runs on the file"

    def complete(self, *completions: Any) -> None:
        self.kernel.complete(completions, self.now_ns)
        self.drain()

    def job(self) -> Any:
        """The oldest job in flight."""
        return next(iter(self.jobs.values()))

    def deliver(self, tokens: list[int], **more: Any) -> None:
        """One step of the oldest job, a generate."""
        job = self.job()
        self.files[job.ino] += tokens
        self.complete(e.GenerateTokens(job.job, tokens, **more))

    def step(self, *, reason: str = "length", stop: str | None = None, tokens: tuple[int, ...] = (7,)) -> None:
        """Finish the oldest job as the device would."""
        job = self.jobs.pop(next(iter(self.jobs)))
        span = e.StepSpan(1, 2, 0.25)
        match job:
            case e.ForwardJob():
                self.files[job.ino] += job.tokens
                self.complete(e.ForwardDone(job.job, (ROW,) * len(job.outputs), span))
            case e.GenerateJob():
                self.complete(e.GenerateDone(job.job, reason, stop, max(len(self.files[job.ino]) - 1, 0), span=span))
            case e.SampleJob():
                self.complete(e.SampleDone(job.job, list(tokens), [-0.5] * len(tokens), span))
            case e.RowJob():
                self.complete(e.RowDone(job.job, b"\0\0\0\0", span))
            case e.ExtractJob() | e.ConcatJob():
                assert job.dst not in self.files
                self.files[job.dst] = self.made.pop(job.job)
                self.complete(e.EditDone(job.job, len(self.files[job.dst]) - 1, span))
            case e.TextJob():
                self.complete(e.TextDone(job.job, CALLS[job.op].result(*{"detokenize": ["words"], "parse_tools": ["[]"]}.get(
                    job.op, [pack_tokens([1, 2])]))))  # fmt: skip

    def fail(self, error: SymphonyError | None = None) -> None:
        """The oldest job fails, by default as a cancelled one does."""
        job = self.jobs.pop(next(iter(self.jobs)))
        self.complete(e.JobFailed(job.job, error or Interrupted("cancelled")))

    def reap(self) -> None:
        """End all cancelled jobs, as the device does."""
        for job in [job for job in self.jobs if job in self.cancelled]:
            del self.jobs[job]
            self.complete(e.JobFailed(e.JobId(job), Interrupted("cancelled")))

    # ---- looking

    def sent(self, kind: type) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def check(self) -> None:
        """The kernel's invariants hold, and the device's files are the kernel's."""
        self.kernel.check()
        inodes = self.kernel.files.inodes
        assert {ino: list(inode.tokens) for ino, inode in inodes.items()} == self.files

    def assert_empty(self) -> None:
        """Nothing is left of what ran."""
        self.check()
        assert self.kernel.idle(), self.kernel.counters()
        left = self.kernel.counters()
        assert not any(left[key] for key in ("processes", "calls", "jobs", "fds", "threads", "timers", "viewers", "tracers")), left
        assert self.jobs == {}
