"""What the kernel asks of the world, and what the world answers (kernel/effect.py).

The kernel is called with events and leaves *ordered effects*; the host carries them out and calls it with completions:

    kernel --- device effects ---> engine (page table, scheduler)  --- completions ---> kernel
           --- text effects -----> tokenizer thread                --- completions --->
           --- process effects --> reactor (sockets, fork server)  --- events -------->

Records are immutable and cross threads; a device effect on a file takes place after all earlier ones on that file. A job ends with
exactly one `...Done` or `JobFailed`, also when it was cancelled. Token lists are owned by the receiver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.record import (
    NodeRecord,
    PolicyRecord,
    PrincipalRecord,
    ProgramRecord,
    QuotaRecord,
    Restored,
    SavedPage,
    WeightRecord,
)
from vllm_symphony.abi.types import (
    PYTHON,
    Distribution,
    Finding,
    Grammar,
    Ino,
    JobId,
    MetricSample,
    ModelInfo,
    Pid,
    Predicate,
    ResourceLimits,
    Sampler,
    Span,
)  # fmt: skip
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.sched.view import QueueView


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a job is, as scheduling sees it (kernel/sched/). `program`: its name in the registry, else its file's; `priority`: what
    it declares, higher first. Pid 0: the kernel itself."""

    pid: Pid = Pid(0)  # noqa: RUF009  a number
    tid: int = 0
    principal: str = ""
    program: str = ""
    priority: int = 0


# ---- to the device: residency (no completion)


@dataclass(frozen=True, slots=True)
class CreateFile:
    """A new file with these tokens and no KV yet. `domain` separates prefix caches ("" = vLLM's own).

    Of a file that comes back from the store: `runs` are (index, position) where its positions jump, `saved` the pages of its
    computed part on disk, and `edited` says that these cannot be computed from the tokens: they are never given up.
    """

    ino: Ino
    tokens: list[int]
    domain: str = ""
    runs: tuple[tuple[int, int], ...] = ((0, 0),)
    saved: tuple[SavedPage, ...] = ()
    edited: bool = False


@dataclass(frozen=True, slots=True)
class ForkFile:
    """`dst` shares what is computed of `src`'s first `length` tokens. `src` may be in use by a job. In another prefix-cache domain
    than its source, `dst` publishes nothing as long as it has pages."""

    src: Ino
    dst: Ino
    length: int
    domain: str = ""


@dataclass(frozen=True, slots=True)
class AppendTokens:
    """More tokens without KV, the first at position `start`. Never sent while a job runs on the file."""

    ino: Ino
    tokens: list[int]
    start: int


@dataclass(frozen=True, slots=True)
class TruncateFile:
    """Forget tokens from `length` on. Never sent while a job runs on the file."""

    ino: Ino
    length: int


@dataclass(frozen=True, slots=True)
class DropFile:
    """The last name and fd are gone: free everything. A running job on it was cancelled before."""

    ino: Ino


@dataclass(frozen=True, slots=True)
class PinFile:
    """Its pages stay on the device (and come back to it), or need not any more."""

    ino: Ino
    pinned: bool


@dataclass(frozen=True, slots=True)
class LimitDomain:
    """What files of a domain may hold beside the device; None: no limit. Past it the tier is left out: pages go further down, or
    (exact ones) are given up."""

    domain: str
    host_bytes: int | None = None
    disk_bytes: int | None = None
    rows: int | None = None


# ---- to the device: who computes, and by which rules (no completion)


@dataclass(frozen=True, slots=True)
class ProcessBegan:
    """A program or a session: jobs with this pid are its. `parent`: the program that started it, else None."""

    pid: Pid
    parent: Pid | None
    principal: str
    program: str
    priority: int = 0


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """No job of this pid comes any more; those that run may still end."""

    pid: Pid


@dataclass(frozen=True, slots=True)
class Rests:
    """A thread of a process with open files waits for a tool (`name`), a sleep, a message or a child, in its call `call`."""

    pid: Pid
    tid: int
    why: str
    name: str = ""
    call: int = 0


@dataclass(frozen=True, slots=True)
class Resumes:
    """What it waited for in that call is over."""

    pid: Pid
    tid: int
    call: int = 0


@dataclass(frozen=True, slots=True)
class Weigh:
    """A principal's part of the device against others', and the most of its jobs in one step (None: any)."""

    principal: str
    weight: float = 1.0
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """From here on this policy decides at this level (`process` or `memory`), with these parameters; others stay as they are by
    default. Names and values were checked."""

    level: str
    name: str
    parameters: tuple[tuple[str, float], ...] = ()


# ---- to the device: jobs (one completion each)


@dataclass(frozen=True, slots=True)
class ForwardJob:
    """Append `tokens` and give distributions at `outputs` (indices into `tokens`, ascending; -1 = the file's last token before
    the call, only when `tokens` is empty). `keep`: the same indices, rows to keep. `start` is the position of the first token."""

    job: JobId
    ino: Ino
    tokens: list[int]
    start: int
    outputs: tuple[int, ...]
    top_k: int
    keep: tuple[int, ...]
    temperature: float
    entropy: bool
    owner: Owner


@dataclass(frozen=True, slots=True)
class GenerateJob:
    """The fused loop. `max_tokens` is already cut to the position limit. `penalty_from` and `grammar.start` are lengths of the
    file (set). `until`'s `after` and `every` count this call's tokens."""

    job: JobId
    ino: Ino
    max_tokens: int
    sampler: Sampler
    penalty_from: int
    stop: tuple[str, ...]
    stop_tokens: tuple[int, ...]
    ignore_eos: bool
    grammar: Grammar | None
    until: Predicate | None
    logprobs: bool
    start: int  # position of the first new token
    owner: Owner
    text: bool = True  # `GenerateTokens.text` is wanted


@dataclass(frozen=True, slots=True)
class SampleJob:
    """Draw from the row at index `position` of the file; a row that is not kept is recomputed from the file's prefix."""

    job: JobId
    ino: Ino
    position: int
    sampler: Sampler
    penalty_from: int
    grammar: Grammar | None
    n: int
    first_draw: int
    owner: Owner


@dataclass(frozen=True, slots=True)
class RowJob:
    """The whole row at index `position` of the file, recomputed if it is not kept."""

    job: JobId
    ino: Ino
    position: int
    owner: Owner


@dataclass(frozen=True, slots=True)
class ExtractJob:
    """Make file `dst` with `domain`, of the tokens of `spans` of `src`: keys and values copied (what is not computed of the source
    is computed first, on a fork). `compact`: positions 0, 1, 2, ..., keys rotated. Answered by `EditDone`; if it fails there is no
    `dst`."""

    job: JobId
    src: Ino
    dst: Ino
    spans: tuple[Span, ...]
    compact: bool
    domain: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class ConcatJob:
    """Make file `dst` with `domain`: the pages of the first of `srcs` (ino, length) shared, keys and values of the others copied
    and rotated to the positions that follow. Answered by `EditDone`; if it fails there is no `dst`."""

    job: JobId
    srcs: tuple[tuple[Ino, int], ...]
    dst: Ino
    domain: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class MoveJob:
    """Bring the file's computed pages to a tier: "device", "host" or "disk". Answered by `MoveDone`."""

    job: JobId
    ino: Ino
    tier: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class SaveJob:
    """Have all computed pages of the file on disk, written aside, synced and renamed; they stay where they are too. Answered by
    `SaveDone`."""

    job: JobId
    ino: Ino
    owner: Owner


@dataclass(frozen=True, slots=True)
class CancelJob:
    """End the job soon. It still completes: done if it just was, else `JobFailed(Interrupted)`. After a forward the file is as
    before it; after a generate it holds what `GenerateTokens` delivered."""

    job: JobId


@dataclass(frozen=True, slots=True)
class TextJob:
    """tokenize, detokenize, render_chat, parse_tools: `args` is the call's dataclass of abi/calls.py."""

    job: JobId
    op: str
    args: Any


DeviceEffect = (
    CreateFile | ForkFile | AppendTokens | TruncateFile | DropFile | PinFile | LimitDomain | ForwardJob | GenerateJob | SampleJob
    | RowJob | ExtractJob | ConcatJob | MoveJob | SaveJob | CancelJob | ProcessBegan | ProcessEnded | Rests | Resumes
    | Weigh | SetPolicy
)  # fmt: skip

# ---- to the store: what outlives the server (store/)


@dataclass(frozen=True, slots=True)
class StoreWrite:
    """Keep these as they are now, and forget `removed`; in one transaction, soon."""

    nodes: tuple[NodeRecord, ...] = ()
    removed: tuple[Ino, ...] = ()
    quotas: tuple[QuotaRecord, ...] = ()
    counters: tuple[tuple[str, int], ...] = ()
    principals: tuple[PrincipalRecord, ...] = ()
    programs: tuple[ProgramRecord, ...] = ()
    uninstalled: tuple[tuple[str, str], ...] = ()  # (owner/name, version)
    weights: tuple[WeightRecord, ...] = ()
    policies: tuple[PolicyRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreSync:
    """Answered by `StoreDone` when all earlier writes are on disk, synced."""

    job: JobId


@dataclass(frozen=True, slots=True)
class StoreFind:
    """Rank `candidates` by text; `changed` (ino, modified_ns, tokens) are put into the index first. Words of files that are no
    candidates count for nothing. Answered by `FindDone`."""

    job: JobId
    query: str
    candidates: tuple[Ino, ...]
    changed: tuple[tuple[Ino, int, list[int]], ...]
    limit: int


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """Read `pages` (of which file, where) and compare their checksums; a segment that is wrong is put aside. Answered by
    `CheckDone`."""

    job: JobId
    pages: tuple[tuple[Ino, tuple[SavedPage, ...]], ...]


@dataclass(frozen=True, slots=True)
class StoreGc:
    """Remove page files that no node refers to (`dry_run`: only name them). Answered by `CheckDone`."""

    job: JobId
    dry_run: bool


@dataclass(frozen=True, slots=True)
class StoreExport:
    """Pack a node (all its tokens) and its pages into a spool file. Answered by `SpoolDone`."""

    job: JobId
    node: NodeRecord


@dataclass(frozen=True, slots=True)
class StoreImport:
    """Unpack a spool file: pages into segments of this store, if this store signed them or `trust`. Answered by `ImportDone`."""

    job: JobId
    spool: str
    trust: bool


StoreEffect = StoreWrite | StoreSync | StoreFind | StoreCheck | StoreGc | StoreExport | StoreImport

# ---- to processes and connections


@dataclass(frozen=True, slots=True)
class Reply:
    pid: Pid
    call_id: int
    result: Any  # a result dataclass of abi/calls.py


@dataclass(frozen=True, slots=True)
class ReplyError:
    pid: Pid
    call_id: int
    error: SymphonyError


@dataclass(frozen=True, slots=True)
class Part:
    pid: Pid
    call_id: int
    part: Any  # a part dataclass of abi/calls.py


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a program's OS process; answer with `Kernel.started` or `Kernel.exited`. runtime: `python`, `wasm` (`code` is the
    module) or `trusted`. Of `limits` the host keeps memory, tasks, fds, CPU time (as a backstop) and calls a second."""

    pid: Pid
    source: str
    entry: str
    args: str
    name: str
    seed: int
    code: bytes = b""
    runtime: str = PYTHON
    limits: ResourceLimits = ResourceLimits()
    stdin: bool = False


@dataclass(frozen=True, slots=True)
class Signalled:
    """Tell the program (TERM: a frame that cancels its main task), end it (KILL: SIGKILL to its OS process), hold it (STOP:
    SIGSTOP) or let it go on (CONT)."""

    pid: Pid
    signal: str


@dataclass(frozen=True, slots=True)
class FeedInput:
    """Write to the program's standard input, in order; `eof`: then close it. The kernel has asked `m.input_room(pid)` first."""

    pid: Pid
    data: bytes
    eof: bool


@dataclass(frozen=True, slots=True)
class Hangup:
    """A session has ended: its connection and what it has not acknowledged go. `reason` is for whoever is still connected."""

    pid: Pid
    reason: str


ProcessEffect = Reply | ReplyError | Part | Launch | Signalled | FeedInput | Hangup

# ---- to the tool host


@dataclass(frozen=True, slots=True)
class ToolJob:
    """Call a tool for a principal; `args` is JSON text of an object. Answered by `ToolDone` or `JobFailed`."""

    job: JobId
    principal: str
    pid: Pid
    name: str
    args: str
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class CancelTool:
    """End the job soon; it still completes, with `JobFailed(Interrupted)` unless it was done."""

    job: JobId


ToolEffect = ToolJob | CancelTool
Effect = DeviceEffect | StoreEffect | TextJob | ToolEffect | ProcessEffect

# ---- completions


@dataclass(frozen=True, slots=True)
class StepSpan:
    """Engine steps that a job was part of, and its share of their time."""

    first: int = 0
    last: int = 0
    device_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ForwardDone:
    job: JobId
    distributions: tuple[Distribution, ...]
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class GenerateTokens:
    """Progress of one step: the tokens are in the file."""

    job: JobId
    tokens: list[int]
    logprobs: list[float] = field(default_factory=list)
    text: str = ""


@dataclass(frozen=True, slots=True)
class GenerateDone:
    """All tokens were delivered by `GenerateTokens` before. reason as in abi GenerateResult. `frontier`: tokens with KV."""

    job: JobId
    reason: str
    stop: str | None
    frontier: int
    distribution: Distribution | None = None
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class SampleDone:
    job: JobId
    tokens: list[int]
    logprobs: list[float]
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class RowDone:
    job: JobId
    logits: bytes
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class EditDone:
    """The new file is there; `frontier`: tokens of it with KV."""

    job: JobId
    frontier: int
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class MoveDone:
    """The pages are there; what had to be moved for it."""

    job: JobId
    num_pages: int
    num_bytes: int
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class SaveDone:
    """On disk, synced: the pages of the first `num_tokens` tokens, all of them, and how many bytes were written for it."""

    job: JobId
    pages: tuple[SavedPage, ...]
    num_tokens: int
    num_bytes: int
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class StoreDone:
    """`excess_bytes`: so much is on the disk beyond its high-water mark."""

    job: JobId
    excess_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FindDone:
    """(ino, snippet) of those that match, best first, at most `limit`; `total` that match."""

    job: JobId
    hits: tuple[tuple[Ino, str], ...]
    total: int


@dataclass(frozen=True, slots=True)
class CheckDone:
    """What was found (paths are empty: the kernel knows them), and in how many pages. `excess_bytes` as in StoreDone."""

    job: JobId
    findings: tuple[Finding, ...]
    num_pages: int
    excess_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SpoolDone:
    job: JobId
    spool: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ImportDone:
    """`node`: ino 0, no names; `pages` empty unless trusted and of this server's fingerprint."""

    job: JobId
    node: NodeRecord
    trusted: bool


@dataclass(frozen=True, slots=True)
class TextDone:
    job: JobId
    result: Any  # the call's result dataclass


@dataclass(frozen=True, slots=True)
class ToolDone:
    job: JobId
    result: ToolResult


@dataclass(frozen=True, slots=True)
class JobFailed:
    """The file is as before the job (forward), or holds what was delivered (generate)."""

    job: JobId
    error: SymphonyError
    span: StepSpan = StepSpan()


@dataclass(frozen=True, slots=True)
class StepRan:
    """One engine step is over: for the event log. Times are the monotonic clock's. It belongs to no job."""

    step: int
    t_start_ns: int
    t_end_ns: int
    num_calls: int
    num_tokens: int
    job: ClassVar[JobId] = JobId(0)


StoreCompletion = StoreDone | FindDone | CheckDone | SpoolDone | ImportDone | JobFailed
Completion = (
    StepRan | ForwardDone | GenerateTokens | GenerateDone | SampleDone | RowDone | EditDone | MoveDone | SaveDone | StoreCompletion
    | TextDone | ToolDone
)  # fmt: skip

# ---- the roles of device and store


@dataclass(frozen=True, slots=True)
class Residency:
    """Where a file's pages are now, as counts; `frontier`: tokens with KV, wherever it is. `known`: the device has heard of it."""

    frontier: int = 0
    device_pages: int = 0
    host_pages: int = 0
    disk_pages: int = 0
    known: bool = True


@dataclass(frozen=True, slots=True)
class Capacity:
    """The device's and its tiers' room now. `rows`: kept rows of each domain that has some."""

    device_pages: int = 0
    device_pages_free: int = 0
    host_bytes: int = 0
    host_bytes_used: int = 0
    disk_bytes: int = 0
    disk_bytes_used: int = 0
    disk_bytes_free: int = 0
    rows: tuple[tuple[str, int], ...] = ()


class Store(Protocol):
    """What outlives the server: SQLite, page files, the search index. A server without a state directory has one in memory."""

    def load(self) -> Restored:
        """What the state directory holds. Once, before `start`."""

    def start(self, on_completions: Callable[[Sequence[Completion]], None]) -> None:
        """Begin to work; the callback comes from the store's own thread."""

    def submit(self, effects: Sequence[StoreEffect]) -> None:
        """Take effects, in order. From any one thread; never blocks on the disk."""

    def reweighted(self, fingerprint: str) -> None:
        """The device's model has other weights: pages under this fingerprint can be used from now on. Any thread."""

    def stop(self) -> None:
        """Finish what was submitted, sync, close. Idempotent."""

    def counters(self) -> dict[str, float]:
        """For `info`."""


class Device(Protocol):
    """What computes: the own host's engine, vLLM's EngineCore process, or the simulator."""

    model: ModelInfo

    def start(self, on_completions: Callable[[Sequence[Completion]], None], on_death: Callable[[BaseException], None]) -> None:
        """Begin to compute. Both callbacks come from the device's own thread, completions at most once a step."""

    def submit(self, effects: Sequence[DeviceEffect | TextJob]) -> None:
        """Take effects, in order. From any one thread; never blocks on a step."""

    def stop(self) -> None:
        """Fail what is in flight with ENODEV, free everything, end the device's threads. Idempotent."""

    def job_state(self, job: JobId) -> tuple[str, str]:
        """What a job waits for: `batch`, `pages` or `queue` (abi/types.py `ThreadWait`), and the values of it in words.

        From any thread, never blocks on a step. The answer may be a moment old; for a job that it does not know, or that has just
        ended, it is `queue` or `batch` without more.
        """

    def decode(self, tokens: list[int]) -> str:
        """Their text, for the search index: without marks, whatever they are. From any thread."""

    def residency(self, ino: Ino) -> Residency:
        """Where a file's pages are. From any thread, never blocks on a step; may be a moment old; nothing of an unknown file."""

    def capacity(self) -> Capacity:
        """The room on the device and below it. As `residency`."""

    def queue_view(self) -> QueueView:
        """Who waits for it and who computes. As `residency`."""

    def counters(self) -> dict[str, float]:
        """Steps, tokens, pages free and used, preemptions, parked, waits: for `info` and tests."""

    def samples(self) -> Iterable[MetricSample]:
        """All that it counts (docs/metrics.md). From any thread, never blocks on a step; may be a step old."""
