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
    ChannelStat,
    Distribution,
    ExitStatus,
    FileEvent,
    FileStat,
    Finding,
    FsStat,
    Grammar,
    Message,
    MetricSample,
    ModelInfo,
    PolicyStat,
    Predicate,
    PrincipalStat,
    ProcessEvent,
    ProcessRecord,
    ProcessStat,
    ProgramInfo,
    Quota,
    ResourceLimits,
    Sampler,
    SendFd,
    Span,
    StepRecord,
    ThreadUsage,
    ThreadWait,
    ToolInfo,
    Usage,
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
    `traceparent`: the W3C trace context that a new session continues; one that is malformed is passed over.
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
    traceparent: str = ""


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
    """`path` or `tokens` or both. With `tokens` the file must be new: anonymous (no path) or CREAT. `mode` loses the bits of the
    process's umask. `require`: "exact" refuses a file whose keys and values are no plain function of its tokens (EINVAL)."""

    path: str | None = None
    tokens: bytes | None = None
    flags: int = 0
    mode: int = 0o600
    require: str = ""


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
    """`text`: of a file below /proc, which has text and no tokens."""

    tokens: bytes
    positions: bytes
    length: int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Give the open file a (further) name; EEXIST when it is taken, unless `replace`: then, atomically, what had it loses it."""

    fd: int
    path: str
    replace: bool = False


@dataclass(frozen=True, slots=True)
class PathArgs:
    """unlink, rmdir."""

    path: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Atomic; replaces `new`: a file a file, a directory an empty directory."""

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
    """Named files (not directories) whose path begins with `prefix`, by name."""

    prefix: str = "/"


@dataclass(frozen=True, slots=True)
class ListResult:
    files: tuple[FileStat, ...]


# ---- names, rights, attributes


@dataclass(frozen=True, slots=True)
class Mkdir:
    """Make a directory. `parents`: those that are missing too, and one that exists is no error. `mode` loses the umask's bits."""

    path: str
    mode: int = 0o777
    parents: bool = False


@dataclass(frozen=True, slots=True)
class Listdir:
    """What the directory holds, by name; `recursive`: and all below it. What the caller may not look into is left out."""

    path: str = "/"
    recursive: bool = False


@dataclass(frozen=True, slots=True)
class Chmod:
    """Set the rights of `fd`, or of what is at `path`: bits 0o1777 of a directory (0o2000: new entries get its group), 0o777 of a
    file."""

    mode: int
    fd: int | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Chown:
    """Give it to another principal (scope admin), or to a group that the caller is in. None: as it is."""

    fd: int | None = None
    path: str | None = None
    owner: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Umask:
    """Bits that new files and directories of this process do not get. None: leave it."""

    mask: int | None = None


@dataclass(frozen=True, slots=True)
class UmaskResult:
    """The mask before."""

    mask: int


@dataclass(frozen=True, slots=True)
class Setxattr:
    """Set an extended attribute. `create`: it must be new (EEXIST); `replace`: it must exist (ENODATA)."""

    name: str
    value: str
    fd: int | None = None
    path: str | None = None
    create: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Xattr:
    """getxattr, removexattr."""

    name: str
    fd: int | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class FileArgs:
    """listxattr, du: exactly one of them."""

    fd: int | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class XattrsResult:
    """By name. Of getxattr the one that was asked for."""

    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Chattr:
    """How a file or a directory is kept. None: as it is.

    durable    of a directory, for the files in it: "none", "tokens" (names, tokens, attributes survive a restart), "pages" (their
               computed pages too, as far as `sync` or a clean stop has written them). "" = as the directory above.
    expires_s  of a file: it is unlinked so many seconds from now; 0 = never
    ttl_s      of a directory: what is made in it gets this as its `expires_s`; 0 = none
    """

    fd: int | None = None
    path: str | None = None
    durable: str | None = None
    expires_s: float | None = None
    ttl_s: float | None = None


# ---- editing


@dataclass(frozen=True, slots=True)
class Extract:
    """A new anonymous file with the tokens of `spans` (ascending, disjoint, not empty): their keys and values are copied, not
    computed again. positions: "keep" (as they were: lineage `pruned`; `exact` when it is one span from 0) or "compact" (0, 1,
    2, ...: keys are rotated, lineage `approximate`). Later tokens' keys have seen what was left out: this hides no secret."""

    fd: int
    spans: tuple[Span, ...]
    positions: str = "keep"
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Concat:
    """A new anonymous file with the tokens of all `fds`, positions from the end of the first on without gaps. mode: "recompute"
    (the pages of the first are shared, the rest is computed when it is needed; exact if the first is) or "rotate" (keys and values
    of the others are copied and rotated: nothing is computed, lineage `approximate`: they have not seen what stands before)."""

    fds: tuple[int, ...]
    mode: str = "recompute"
    timeout_s: float | None = None


# ---- sharing, keeping


@dataclass(frozen=True, slots=True)
class Flock:
    """Lock the open file. kind: "shared" (any number), "exclusive" (one; meanwhile a write through another open file is EBUSY), or
    "unlock". Granted in the order of asking; without `wait` EAGAIN at once. After `lease_s` it is taken away, and the next write
    through this open file is ESTALE, once. To lock what one holds renews the lease."""

    fd: int
    kind: str = "exclusive"
    lease_s: float = 30.0
    wait: bool = True
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """Keep the file's pages on the device (`pinned`), or let them go again. The pins of a principal have a limit: EDQUOT."""

    fd: int | None = None
    path: str | None = None
    pinned: bool = True


@dataclass(frozen=True, slots=True)
class Advise:
    """Say what will be needed. advice: "willneed" (bring what was demoted back to the device) or "dontneed" (demote the pages to
    `tier`: "host" or "disk"). `wait`: answer when it is done."""

    fd: int | None = None
    path: str | None = None
    advice: str = "willneed"
    tier: str = "host"
    wait: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """Write to disk, and wait until it is there: the file, or (neither) all named files of the caller. What the directory's
    `durable` says is written: names, tokens and attributes, and with "pages" the computed pages. EINVAL for a file whose directory
    keeps none."""

    fd: int | None = None
    path: str | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What is on disk now: how many files, and how many bytes of pages had to be written for it."""

    num_files: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class StatfsResult:
    fs: FsStat


@dataclass(frozen=True, slots=True)
class DuResult:
    """By path, directories after what is in them. `charge` in FileStat is split: a page that n files share costs each 1/n."""

    files: tuple[FileStat, ...]
    num_pages: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Setquota:
    """Scope admin: set the limits of a principal. A limit below 0 takes it away; None leaves it."""

    principal: str
    device_pages: int | None = None
    host_bytes: int | None = None
    disk_bytes: int | None = None
    files: int | None = None
    rows: int | None = None
    pinned_pages: int | None = None


@dataclass(frozen=True, slots=True)
class Getquota:
    """Of the caller (""), or with scope admin of anybody."""

    principal: str = ""


@dataclass(frozen=True, slots=True)
class QuotaResult:
    quota: Quota


# ---- looking for files


@dataclass(frozen=True, slots=True)
class Find:
    """Files and directories below `path` that the caller may read, by all of what is given; rights are applied before ranking and
    counting. `name`: a glob on the last part. `xattr`: name -> glob on the value. Sizes in tokens, `age`s in seconds since the
    tokens changed. `text`: words as in SQLite FTS5; then the best match comes first, else by path."""

    path: str = "/"
    name: str = ""
    owner: str = ""
    kind: str = ""
    fidelity: str = ""
    xattr: dict[str, str] = field(default_factory=dict)
    min_length: int | None = None
    max_length: int | None = None
    min_age_s: float | None = None
    max_age_s: float | None = None
    text: str = ""
    limit: int = 1000
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class FindResult:
    """`total` that matched, of which `files` are the first `limit`; with `text` a snippet of each."""

    files: tuple[FileStat, ...]
    total: int
    snippets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watch:
    """Stream what happens to `path`, and with `recursive` to all below it, until cancelled. Of what the caller may see only."""

    path: str = "/"
    recursive: bool = True


@dataclass(frozen=True, slots=True)
class WatchPart:
    """The first one is empty: from then on nothing is missed. `missing`: events before these that a slow reader lost."""

    events: tuple[FileEvent, ...]
    missing: int = 0


# ---- the operator's files (edge and clients)


@dataclass(frozen=True, slots=True)
class Gc:
    """Remove what has expired, page files that nobody refers to, and, while the disk is above its high-water mark, the pages of the
    files that were not used for the longest time. `dry_run`: only say so. Of the caller's files; with scope admin of all."""

    dry_run: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class GcResult:
    removed: tuple[Finding, ...]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Fsck:
    """Prove what is kept: names against inodes, pages on disk against their checksums. What is broken is put aside and told of.
    `rebuild`: compute the pages of stale files again."""

    path: str = "/"
    rebuild: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class FsckResult:
    findings: tuple[Finding, ...]
    num_files: int
    num_pages: int


@dataclass(frozen=True, slots=True)
class Export:
    """Pack one file (tokens, positions, attributes, and with `pages` its computed pages), signed by this server, into its spool
    folder; the edge streams it from there."""

    path: str
    pages: bool = True
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ExportResult:
    """`spool`: name of the packed file in the spool folder of the state directory; who reads it removes it."""

    spool: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Import:
    """Make a file at `path` of what was exported and lies in the spool folder. Its pages are taken if this server signed them, or
    with `trust` (scope admin); else they are computed again from the tokens. An edited file without trusted pages is rebuilt, or
    stale."""

    path: str
    spool: str
    mode: int = 0o600
    trust: bool = False
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ImportResult:
    """`trusted`: its pages were taken."""

    file: FileStat
    trusted: bool


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
    """reason: `stop` (end token, stop token or string: which one in `stop`), `length`, `until`, `grammar` (it is complete),
    `quota` (the principal's pages are used up).
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
    refused, what is not said is not checked.

    code      instead of `source`: a WebAssembly module
    program   instead of both: one of the registry, "owner/name@version" (without owner: the caller's; without version: the latest)
    runtime   "" = by what is given: `python` or `wasm`; `trusted`: in the server's own process, where the operator allows it
    limits    of it and all that it spawns; never more than the caller's own. None: at the top the server's defaults, below them
              none but the caller's
    fds       open files that it gets: name -> fd of the caller; there they are read by `inherited`
    tools     globs of the tools that it may call, of those that the caller may; None: of a child all, at the top none
    stdin     its standard input comes by `feed`; else it is empty
    traceparent   the W3C trace context that it continues (docs/tracing.md); one that is malformed is passed over
    """

    source: str | None = None
    entry: str = "main"
    args: str = "{}"
    name: str = ""
    detach: bool = False
    abi: str = ""
    code: bytes = b""
    program: str = ""
    runtime: str = ""
    limits: ResourceLimits | None = None
    fds: dict[str, int] = field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    stdin: bool = False
    traceparent: str = ""


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
class InheritedResult:
    """The open files that the program was given: name -> fd."""

    fds: dict[str, int]


@dataclass(frozen=True, slots=True)
class Feed:
    """Write to a program's standard input; `eof`: and close it. EAGAIN while too much of it is unread, EPIPE when it is closed."""

    pid: int
    data: bytes = b""
    eof: bool = False


@dataclass(frozen=True, slots=True)
class Getrlimit:
    """Of the caller, of process `pid`, or of a principal (the caller's own; with scope admin anybody's)."""

    pid: int | None = None
    principal: str | None = None


@dataclass(frozen=True, slots=True)
class RlimitResult:
    """The limits, and what of them is used: by the process and all below it, or by all programs of the principal."""

    limits: ResourceLimits
    used: ResourceLimits


@dataclass(frozen=True, slots=True)
class Setrlimit:
    """Lower the limits of the caller or of its process `pid`, field by field (None: as it is); scope admin may raise them too, and
    sets those of a principal (there a number below 0 takes the limit away)."""

    limits: ResourceLimits
    pid: int | None = None
    principal: str | None = None


@dataclass(frozen=True, slots=True)
class Getrusage:
    """Of the caller, or of process `pid`."""

    pid: int | None = None


@dataclass(frozen=True, slots=True)
class RusageResult:
    """What the process has used itself; `children`: all that it spawned, and what those did; `threads`: that have not ended."""

    usage: Usage
    children: Usage
    threads: tuple[ThreadUsage, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """TERM, KILL, STOP or CONT to a program."""

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


# ---- channels


@dataclass(frozen=True, slots=True)
class ChannelOpen:
    """A handle on the channel `name` ("namespace/name"; without a slash in the caller's own namespace, its principal; "" = a new
    one without a name, that lives while a handle of it is open).

    flags     CREAT: make it if it is not there (EXCL: it must not be there); what follows counts then only
    access    what the handle is for: "r" receive, "w" send, "rw"
    mode      rights as of a file: r to receive, w to send; less the process's umask
    kind      `queue`: each message goes to one receiver; `topic`: to each handle that may receive, in a queue of its own
    capacity  messages that a queue holds
    overflow  of a topic, when a subscriber's queue is full: `block` (the sender waits), `drop_oldest`, `drop_new`; a queue: `block`
    """

    name: str = ""
    flags: int = 0
    access: str = "rw"
    mode: int = 0o600
    kind: str = "queue"
    capacity: int = 64
    overflow: str = "block"


@dataclass(frozen=True, slots=True)
class ChannelResult:
    ch: int


@dataclass(frozen=True, slots=True)
class ChannelArgs:
    """channel_close."""

    ch: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message, and files with it. A full queue: wait for room, or with `wait` false EAGAIN. EPIPE: nobody can receive it any
    more (a channel without a name whose receivers have all closed it)."""

    ch: int
    data: bytes = b""
    fds: tuple[SendFd, ...] = ()
    wait: bool = True
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class SendResult:
    """Number of the message in its channel, from 1; how many queues took it (0: a topic that nobody listens to)."""

    seq: int
    num_receivers: int


@dataclass(frozen=True, slots=True)
class Recv:
    """The next message, in order; without `wait` EAGAIN when there is none. EPIPE: there is none and nobody can send one any more
    (a channel without a name whose senders have all closed it)."""

    ch: int
    wait: bool = True
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class RecvResult:
    message: Message


@dataclass(frozen=True, slots=True)
class Request:
    """Send to a queue and wait for what its receiver answers by `respond`. EPIPE when the receiver closes it or ends without."""

    ch: int
    data: bytes = b""
    fds: tuple[SendFd, ...] = ()
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer the request `token` that was received; once. EPIPE when nobody waits for it any more."""

    token: int
    data: bytes = b""
    fds: tuple[SendFd, ...] = ()


@dataclass(frozen=True, slots=True)
class Poll:
    """Wait until one of these can be received from, or sent to, without waiting; at the time limit both are empty."""

    receive: tuple[int, ...] = ()
    send: tuple[int, ...] = ()
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class PollResult:
    receive: tuple[int, ...]
    send: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChannelName:
    """channel_unlink: take the name away; open handles go on."""

    name: str


@dataclass(frozen=True, slots=True)
class Channels:
    """Named channels that the caller may receive from or send to, by name; `prefix` of "namespace/name"."""

    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ChannelsResult:
    channels: tuple[ChannelStat, ...]


# ---- tools


@dataclass(frozen=True, slots=True)
class ToolsResult:
    """Those that the caller may call, by name."""

    tools: tuple[ToolInfo, ...]


@dataclass(frozen=True, slots=True)
class CallTool:
    """`args`: a JSON object as text. `timeout_s` None: the tool's own."""

    name: str
    args: str = "{}"
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the tool gave: data, never instructions. `json`: the structured part as text, if it has one. `is_error`: the tool itself
    says that it failed. `truncated`: more came than a result may have. `num_tries`: how often it was called."""

    content: str
    json: str | None = None
    is_error: bool = False
    truncated: bool = False
    num_tries: int = 1


# ---- the registry (edge and clients)


@dataclass(frozen=True, slots=True)
class Install:
    """Keep a program under `name` ("owner/name"; without a slash the caller's) and `version` ("1.2", "1.2.0-rc1"); EEXIST when that
    version is there with other content. `source` or `code`. `schema`: of its arguments, for lists."""

    name: str
    version: str
    source: str = ""
    code: bytes = b""
    entry: str = "main"
    schema: str = ""
    description: str = ""
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class ProgramResult:
    program: ProgramInfo


@dataclass(frozen=True, slots=True)
class ProgramArgs:
    """uninstall, program: "owner/name@version". `program` also gives the source."""

    program: str


@dataclass(frozen=True, slots=True)
class ProgramTextResult:
    program: ProgramInfo
    source: str
    code: bytes


@dataclass(frozen=True, slots=True)
class Programs:
    """Installed programs that the caller may see, by name, newest version first; `pattern`: a glob on "owner/name@version"."""

    pattern: str = ""


@dataclass(frozen=True, slots=True)
class ProgramsResult:
    programs: tuple[ProgramInfo, ...]


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
    ends. `steps`: the engine's steps too. `processes`: programs and sessions too, those that run and those that begin and end from
    here on, each before its calls. A reader that was cut off goes on at `from_seq`. Parts: StracePart."""

    pid: int | None = None
    follow: bool = False
    children: bool = False
    steps: bool = False
    from_seq: int = 1
    processes: bool = False


@dataclass(frozen=True, slots=True)
class StracePart:
    """`missing`: calls before these that the log had no room for; of a reader that goes on at a number, calls of all processes."""

    records: tuple[CallRecord, ...]
    steps: tuple[StepRecord, ...] = ()
    missing: int = 0
    processes: tuple[ProcessRecord, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Metrics:
    """What the server counts. `reported`: what an edge counts itself; it stands for what the same one said before."""

    reported: tuple[MetricSample, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricsResult:
    """All numbers: the kernel's, the engine's, and those of all edges together (docs/metrics.md)."""

    samples: tuple[MetricSample, ...]


# ---- scheduling


@dataclass(frozen=True, slots=True)
class SchedResult:
    """Who decides at each level, and who has what of the device: the caller, or with scope admin everybody that has called since
    the start, or has a weight or a cap. `num_running`, `num_queued`: calls of all. `errors`: how far predictions of a quantity
    were off, as a part of what came to pass."""

    policies: tuple[PolicyStat, ...]
    principals: tuple[PrincipalStat, ...]
    num_running: int = 0
    num_queued: int = 0
    errors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setsched:
    """Scope admin: who decides at a level from here on. No policy: as at the start. Parameters that are not given are as by
    default."""

    level: str
    policy: str = ""
    parameters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setweight:
    """Scope admin: a principal's part of the device, and the most of its calls that compute at once. None leaves it; a cap below 0
    takes it away."""

    principal: str
    weight: float | None = None
    cap: int | None = None
