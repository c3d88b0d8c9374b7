"""What the kernel asks of the world, and what the world answers (kernel/effect.py).

The kernel is called with events and leaves *ordered effects*; the host carries them out and calls it with completions:

    kernel --- device effects ---> engine (page table, scheduler)  --- completions ---> kernel
           --- text effects -----> tokenizer thread                --- completions --->
           --- process effects --> reactor (sockets, fork server)  --- events -------->

Records are immutable and cross threads; a device effect on a file takes place after all earlier ones on that file. A job ends with
exactly one `...Done` or `JobFailed`, also when it was cancelled. Token lists are owned by the receiver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from vllm_symphony.abi.types import Distribution, Grammar, Ino, JobId, ModelInfo, Pid, Predicate, Sampler
from vllm_symphony.errors import SymphonyError

OrderKey = tuple[float, int]  # from the process policy; smaller goes first

# ---- to the device: residency (no completion)


@dataclass(frozen=True, slots=True)
class CreateFile:
    """A new file with these tokens and no KV yet. `domain` separates prefix caches ("" = vLLM's own)."""

    ino: Ino
    tokens: list[int]
    domain: str = ""


@dataclass(frozen=True, slots=True)
class ForkFile:
    """`dst` shares what is computed of `src`'s first `length` tokens. `src` may be in use by a job."""

    src: Ino
    dst: Ino
    length: int


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
    order: OrderKey


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
    order: OrderKey
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
    order: OrderKey


@dataclass(frozen=True, slots=True)
class RowJob:
    """The whole row at index `position` of the file, recomputed if it is not kept."""

    job: JobId
    ino: Ino
    position: int
    order: OrderKey


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
    CreateFile | ForkFile | AppendTokens | TruncateFile | DropFile | ForwardJob | GenerateJob | SampleJob | RowJob | CancelJob
)

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
    """Start a program's OS process; answer with `Kernel.started` or `Kernel.exited`."""

    pid: Pid
    source: str
    entry: str
    args: str
    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class Signalled:
    """Tell the program (TERM: a frame that cancels its main task) or end it (KILL: SIGKILL to its OS process)."""

    pid: Pid
    signal: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """A session has ended: its connection and what it has not acknowledged go. `reason` is for whoever is still connected."""

    pid: Pid
    reason: str


ProcessEffect = Reply | ReplyError | Part | Launch | Signalled | Hangup
Effect = DeviceEffect | TextJob | ProcessEffect

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
class TextDone:
    job: JobId
    result: Any  # the call's result dataclass


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


Completion = StepRan | ForwardDone | GenerateTokens | GenerateDone | SampleDone | RowDone | TextDone | JobFailed

# ---- the device's role


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

    def counters(self) -> dict[str, float]:
        """Steps, tokens, pages free and used, preemptions, parked, waits: for `info` and tests."""
