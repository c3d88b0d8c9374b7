"""The calls (abi/calls.py): arguments and results of each system call, as dataclasses. Which belong together: abi/table.py.

    frame to the kernel     {"id": 7, "tid": 0, "op": "forward", "a": {"fd": 3, "tokens": b"..."}}
    reply                   {"id": 7, "ok": {...}}   or   {"id": 7, "err": {"reason", "message", "values", "retry_after_s"}}
    part of a stream        {"id": 7, "part": {...}}          (generate, attach, strace: any number of them, then the reply)

A frame is 4 bytes of little-endian length and a msgpack map; what is larger than `CHUNK_BYTES` travels in chunks to a peer that
said the feature `chunks` (abi/frame.py). Fields that are left out take the defaults below; an unknown call is ENOSYS, an unknown
field, or one of a wrong type, EINVAL. A call with id 0 gets no reply (`emit`). `cancel` ends another call of the caller by its id.
Fields beside `a` in a call (abi/codec.py `Call`): `request_id` makes a retry of a mutating call happen once, `ack` is the number of
the last frame of its session that the caller has, `session` and `resume` make an edge's call one of that session.
Source: HotOS '25, section 4 (system calls).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_symphony.abi.types import (
    CallRecord,
    Distribution,
    ExitStatus,
    FileStat,
    Grammar,
    ModelInfo,
    Predicate,
    ProcessEvent,
    ProcessStat,
    Sampler,
    StepRecord,
    ThreadWait,
)  # fmt: skip

MAX_FRAME_BYTES = 16 << 20  # one call's bulk; a larger frame is EINVAL and ends the connection
CHUNK_BYTES = 64 << 10  # of a frame that is sent in pieces
MAX_LEASE_S = 86_400.0
MAX_REQUEST_ID = 128  # characters


# ---- session


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of a connection. role: `program` (a child, by its inherited socket), `edge` (may act for a principal: `cred` in
    later calls), `client` (a process of its own, with fds and children).

    A client with `lease_s` is a session: it outlives its connections by that many seconds. Its answers are numbered; a new
    connection says `pid`, the `resume` token that it was given, and `received`: the number of the last answer that it has. It gets
    all later ones again, and must send again the calls with an id above `last_call` of the result. `name`: what lists show.
    """

    abi_major: int
    abi_minor: int
    role: str = "client"
    features: tuple[str, ...] = ()
    lease_s: float = 0.0
    name: str = ""
    pid: int = 0
    resume: str = ""
    received: int = 0


@dataclass(frozen=True, slots=True)
class HelloResult:
    abi_major: int
    abi_minor: int
    pid: int
    features: tuple[str, ...] = ()
    resume: str = ""
    lease_s: float = 0.0
    last_call: int = 0


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the caller's call `target`; it answers EINTR unless it was done. Unknown ids are no error (it may just have ended)."""

    target: int


@dataclass(frozen=True, slots=True)
class Done:
    """Result of calls that only succeed."""


@dataclass(frozen=True, slots=True)
class LeaseResult:
    """A session has `lease_s` from now, or from the loss of its connection."""

    lease_s: float


# ---- files


@dataclass(frozen=True, slots=True)
class Open:
    """`path` or `tokens` or both. With `tokens` the file must be new: anonymous (no path) or CREAT."""

    path: str | None = None
    tokens: bytes | None = None
    flags: int = 0
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class FdResult:
    fd: int
    ino: int
    length: int


@dataclass(frozen=True, slots=True)
class FdArgs:
    """close, dup, fork."""

    fd: int


@dataclass(frozen=True, slots=True)
class Truncate:
    fd: int
    length: int
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Append:
    """Append tokens without computing anything yet; the next `forward` or `generate` on the file computes them."""

    fd: int
    tokens: bytes
    start: int | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class LengthResult:
    length: int


@dataclass(frozen=True, slots=True)
class Read:
    """Tokens [offset, offset + count) of `fd`, or of the file at `path`."""

    fd: int | None = None
    path: str | None = None
    offset: int = 0
    count: int | None = None


@dataclass(frozen=True, slots=True)
class ReadResult:
    tokens: bytes
    positions: bytes
    length: int


@dataclass(frozen=True, slots=True)
class Link:
    """Give the open file a (further) name; EEXIST when it is taken."""

    fd: int
    path: str


@dataclass(frozen=True, slots=True)
class PathArgs:
    """unlink."""

    path: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Atomic; replaces `new`."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Stat:
    fd: int | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class StatResult:
    file: FileStat


@dataclass(frozen=True, slots=True)
class List:
    """Named files whose path begins with `prefix`, by name."""

    prefix: str = "/"


@dataclass(frozen=True, slots=True)
class ListResult:
    files: tuple[FileStat, ...]


# ---- model


@dataclass(frozen=True, slots=True)
class Forward:
    """Append `tokens` to the file and give distributions. Atomic: on error or cancel the length is as before.

    start       position of the first token; default: the next one. Gaps are allowed, going back is EINVAL.
    outputs     "last", "all" (each of `tokens`), or "" with `indices` (packed, into `tokens`)
    keep        keep whole rows for `sample` and `logits`: "last", "all", "none"
    top_k       0..max_top_k ids with log-probabilities
    temperature logsumexp_t is computed at it
    entropy     compute it (dear on large vocabularies)
    at          expected length of the file; ESTALE otherwise
    """

    fd: int
    tokens: bytes = b""
    start: int | None = None
    outputs: str = "last"
    indices: bytes = b""
    top_k: int = 20
    keep: str = "last"
    temperature: float = 1.0
    entropy: bool = False
    at: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ForwardResult:
    length: int
    distributions: tuple[Distribution, ...]


@dataclass(frozen=True, slots=True)
class ForwardMany:
    """Several forwards in one frame, on different files; each is atomic. The reply comes when all ended."""

    items: tuple[Forward, ...]


@dataclass(frozen=True, slots=True)
class CallError:
    reason: str
    message: str
    values: dict[str, str | int | float | bool] = field(default_factory=dict)
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ForwardManyResult:
    """In the order of the items: `results[i]` or else `errors[i]` is set."""

    results: tuple[ForwardResult | None, ...]
    errors: tuple[CallError | None, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """Draw `n` tokens from the distribution at `position` of the file (default: its last token). The file does not change.
    The draws are (seed, position, first_draw + i)."""

    fd: int
    position: int | None = None
    sampler: Sampler = Sampler()
    grammar: Grammar | None = None
    n: int = 1
    first_draw: int = 0
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class SampleResult:
    """Tokens (packed) and their log-probabilities in the unmasked model at temperature 1 (packed)."""

    tokens: bytes
    logprobs: bytes


@dataclass(frozen=True, slots=True)
class Logits:
    fd: int
    position: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class LogitsResult:
    """The whole row of raw logits, [vocab_size] float32, packed."""

    position: int
    logits: bytes


@dataclass(frozen=True, slots=True)
class Generate:
    """The fused loop. Streams parts when `stream`, then ends with the result; every token returned is in the file.

    stop          strings; the file ends with the token that completes the first match
    stop_tokens   packed ids that end it (returned, and in the file); the model's own end tokens too unless `ignore_eos`
    logprobs      also the log-probability of each token
    text          detokenize: `text` in parts and result
    """

    fd: int
    max_tokens: int = 256
    sampler: Sampler = Sampler()
    stop: tuple[str, ...] = ()
    stop_tokens: bytes = b""
    ignore_eos: bool = False
    grammar: Grammar | None = None
    until: Predicate | None = None
    logprobs: bool = False
    stream: bool = False
    text: bool = True
    at: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class GeneratePart:
    tokens: bytes
    text: str = ""
    logprobs: bytes = b""


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """reason: `stop` (end token, stop token or string: which one in `stop`), `length`, `until`, `grammar` (it is complete).
    With `until`, `distribution` is the one that fired. `tokens` holds all of the call's tokens, streamed or not."""

    length: int
    reason: str
    tokens: bytes
    text: str = ""
    stop: str | None = None
    logprobs: bytes = b""
    distribution: Distribution | None = None


@dataclass(frozen=True, slots=True)
class Tokenize:
    text: str
    special: bool = True


@dataclass(frozen=True, slots=True)
class TokensResult:
    tokens: bytes


@dataclass(frozen=True, slots=True)
class Detokenize:
    tokens: bytes
    skip_special: bool = True


@dataclass(frozen=True, slots=True)
class TextResult:
    text: str


@dataclass(frozen=True, slots=True)
class RenderChat:
    """`messages` and `tools` are JSON text, as in the OpenAI API."""

    messages: str
    tools: str | None = None
    add_generation_prompt: bool = True


@dataclass(frozen=True, slots=True)
class ParseTools:
    """Find tool calls in a model's text with vLLM's parser of that name (default: the server's). Result is JSON text."""

    text: str
    parser: str | None = None
    tools: str | None = None


@dataclass(frozen=True, slots=True)
class JsonResult:
    json: str


@dataclass(frozen=True, slots=True)
class NoArgs:
    """model_info, ps, now, monotonic, getpid."""


@dataclass(frozen=True, slots=True)
class ModelInfoResult:
    model: ModelInfo


# ---- processes


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a program. `source` is its text, None = the caller's own program; `args` is JSON text of the entry's keyword
    arguments. A child ends with its parent unless `detach`. `abi` ("1.1") is what the program was written for; another major is
    refused, what is not said is not checked."""

    source: str | None = None
    entry: str = "main"
    args: str = "{}"
    name: str = ""
    detach: bool = False
    abi: str = ""


@dataclass(frozen=True, slots=True)
class PidResult:
    pid: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Until the child ends; reaps it. `pid` None = any child."""

    pid: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class WaitResult:
    pid: int
    exit: ExitStatus
    usage: ProcessStat


@dataclass(frozen=True, slots=True)
class Kill:
    pid: int
    signal: str = "TERM"


@dataclass(frozen=True, slots=True)
class Ps:
    """All the caller may see; `pid` for one."""

    pid: int | None = None


@dataclass(frozen=True, slots=True)
class PsResult:
    processes: tuple[ProcessStat, ...]


@dataclass(frozen=True, slots=True)
class Sleep:
    seconds: float


@dataclass(frozen=True, slots=True)
class TimeResult:
    """`now`: seconds since the epoch; `monotonic`: seconds since the kernel started."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Random:
    """`count` random bytes from the process's own seeded source."""

    count: int = 8


@dataclass(frozen=True, slots=True)
class BytesResult:
    data: bytes


@dataclass(frozen=True, slots=True)
class Emit:
    """Show a value (JSON text) to whoever runs the program."""

    value: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The program's last call: how it ended. The process is gone when its socket closes."""

    code: int
    value: str | None = None
    error: str | None = None
    reason: str = "exit"


@dataclass(frozen=True, slots=True)
class ThreadStart:
    """Name a new thread of the caller; later frames carry its tid."""

    tid: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class ThreadEnd:
    tid: int


# ---- seeing (edge and clients)


@dataclass(frozen=True, slots=True)
class Attach:
    """Stream the events of a process from number `from_seq` (1 = the first kept); `follow` until it ends. Parts: AttachPart."""

    pid: int
    from_seq: int = 1
    follow: bool = True


@dataclass(frozen=True, slots=True)
class AttachPart:
    events: tuple[ProcessEvent, ...]


@dataclass(frozen=True, slots=True)
class Strace:
    """Stream the event log of `pid` (None: all that the caller may see), `children`: and of what it spawned; `follow` until it
    ends. `steps`: the engine's steps too. A reader that was cut off goes on at `from_seq`. Parts: StracePart."""

    pid: int | None = None
    follow: bool = False
    children: bool = False
    steps: bool = False
    from_seq: int = 1


@dataclass(frozen=True, slots=True)
class StracePart:
    """`missing`: calls before these that the log had no room for; of a reader that goes on at a number, calls of all processes."""

    records: tuple[CallRecord, ...]
    steps: tuple[StepRecord, ...] = ()
    missing: int = 0


@dataclass(frozen=True, slots=True)
class PidArgs:
    """why."""

    pid: int


@dataclass(frozen=True, slots=True)
class WhyResult:
    """What each thread of the process waits for."""

    process: ProcessStat
    threads: tuple[ThreadWait, ...]


@dataclass(frozen=True, slots=True)
class InfoResult:
    """The server: versions, model, engine and kernel counters, as JSON text (documented in docs/cli.md)."""

    json: str
