"""Values that system calls take and give (abi/types.py).

Plain frozen dataclasses with named fields; the codec (`abi/codec.py`) writes them as msgpack maps. Bulk is packed: token ids and
positions as little-endian uint32 (`pack_tokens`), log-probabilities and rows as little-endian float32 (`pack_floats`).
Nothing here imports more than the standard library, so that programs and clients load it in a millisecond.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntFlag, StrEnum
from typing import NewType

ABI_MAJOR, ABI_MINOR = 1, 5
PYTHON, WASM, TRUSTED = "python", "wasm", "trusted"  # runtimes of programs
WASM_MAGIC = b"\0asm"  # what modules begin with
FEATURES = ("chunks", "request-id", "sessions")  # what a peer may say in its hello that it understands

Pid = NewType("Pid", int)  # process, 53-bit, never reused in a state directory
Fd = NewType("Fd", int)  # open file inside a process
Ino = NewType("Ino", int)  # file identity, 53-bit
JobId = NewType("JobId", int)  # one device call in flight

_SWAP = sys.byteorder == "big"


def pack_tokens(tokens: Iterable[int]) -> bytes:
    """Token ids (or positions) as little-endian uint32. Raises OverflowError or TypeError on what is no uint32, and for bytes: what
    is packed is not packed again."""
    if isinstance(tokens, bytes | bytearray):
        raise TypeError("bytes are no token ids: they may be packed already")
    a = array("I", tokens)
    if _SWAP:
        a.byteswap()
    return a.tobytes()


def unpack_tokens(data: bytes) -> list[int]:
    """Inverse of `pack_tokens`. Raises ValueError when the length is no multiple of 4."""
    a = array("I")
    a.frombytes(data)
    if _SWAP:
        a.byteswap()
    return a.tolist()


def pack_floats(values: Iterable[float]) -> bytes:
    """float32, little-endian."""
    a = array("f", values)
    if _SWAP:
        a.byteswap()
    return a.tobytes()


def unpack_floats(data: bytes) -> list[float]:
    """Inverse of `pack_floats`."""
    a = array("f")
    a.frombytes(data)
    if _SWAP:
        a.byteswap()
    return a.tolist()


class OpenFlags(IntFlag):
    """Flags of `open`, with POSIX's meanings. Without CREAT a path must exist; TMPFILE makes an anonymous file."""

    RDONLY = 0
    RDWR = 1
    CREAT = 2
    EXCL = 4
    TRUNC = 8
    TMPFILE = 16


class Signal(StrEnum):
    """TERM cancels at the current or next call; KILL ends at once; STOP holds its code and its calls until CONT."""

    TERM = "TERM"
    KILL = "KILL"
    STOP = "STOP"
    CONT = "CONT"


class ProcessState(StrEnum):
    """STARTING until its code runs, RUNNING, STOPPED between the signals STOP and CONT, ZOMBIE when ended and not yet reaped by its
    parent."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    ZOMBIE = "zombie"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who calls. Every kernel entry takes one; there is no default. `paths`: names of files may only be at or below these (None:
    anywhere); a program that declares its paths gets them."""

    principal: str
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class Distribution:
    """Next-token distribution at one position of a file, as much of it as was asked for.

    `position` is the index in the file of the last token that it has seen. `ids` and `logprobs` are the top k, best first, packed
    (uint32, float32); log-probabilities are of the unmasked model at temperature 1, so the raw logit of a token is its
    log-probability + `logsumexp`. `logsumexp_t` is of logits / `temperature`: with it a program normalises at that temperature
    without the whole row: p_T(i) = exp(logit_i / T - logsumexp_t). `entropy` in nats at temperature 1, NaN when not asked for.
    """

    position: int
    ids: bytes
    logprobs: bytes
    logsumexp: float
    entropy: float
    temperature: float = 1.0
    logsumexp_t: float = 0.0


@dataclass(frozen=True, slots=True)
class Sampler:
    """How a token is drawn from a distribution; the same object for `sample` and `generate`. Defaults are greedy.

    Penalties count tokens from `penalty_from` (a length of the file), by default from where the program first sampled on the file;
    `repetition_penalty` counts the whole file, as in vLLM. `seed` makes a draw a function of (seed, position, draw).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    penalty_from: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed: bytes | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint on what is sampled. `kind` is `json` (a JSON schema as text), `regex`, `ebnf` (xgrammar's dialect) or `choice`
    (a JSON list of strings). A grammar that is unfinished on the file goes on where it stood; else it starts at `start`
    (a length of the file), by default at the current length."""

    kind: str
    text: str
    start: int | None = None


@dataclass(frozen=True, slots=True)
class Predicate:
    """When `generate` hands back to the program: a tree over one position's unmasked distribution, evaluated on the device.

    op            args
    and, or       `parts`
    entropy       value: entropy in nats > value           (`below=True`: <)
    top1          value: probability of the best token > value  (`below=True`: <)
    margin        value: p(best) - p(second) > value            (`below=True`: <)
    top1_in       `tokens` (packed): the best token is one of them
    mass          `tokens`, value: their probability together > value (`below=True`: <)
    after         value: at least that many tokens were generated in this call
    every         value: the number of tokens generated in this call is a positive multiple of it
    """

    op: str
    value: float = 0.0
    below: bool = False
    tokens: bytes = b""
    parts: tuple[Predicate, ...] = ()


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file or a directory as `stat` and lists show it. `length` in tokens; `num_pages` that its computed part covers, wherever
    they are.

    kind        `file`, `dir`, or `proc` (a file below /proc: text, no tokens)
    fidelity    lineage: `exact` (keys and values follow from tokens and positions), `pruned` (extract), `approximate` (rotated)
    device_pages, host_pages, disk_pages    where its pages are; one may be in several places
    charge      pages that it costs its owner: one that n files share costs each 1/n
    durable     `none`, `tokens` or `pages`, by its directory; of a directory its own word, "" = as above it
    stale       its pages on disk are of another model, layout or version: computed again on first use, or with `fsck --rebuild`
    locked      "", `shared` or `exclusive`
    expires_ns  when it will be unlinked, in ns since the epoch; of a directory `ttl_s` is what new files get
    """

    ino: int
    path: str | None
    nlink: int
    owner: str
    mode: int
    length: int
    frontier: int
    num_pages: int
    fidelity: str
    num_open: int
    busy: bool
    created_ns: int
    modified_ns: int
    kind: str = "file"
    group: str = ""
    device_pages: int = 0
    host_pages: int = 0
    disk_pages: int = 0
    charge: float = 0.0
    pinned: bool = False
    durable: str = "none"
    stale: bool = False
    locked: str = ""
    expires_ns: int | None = None
    ttl_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens [start, stop) of a file, by index."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What a principal may hold (None: no limit), and holds: pages on the device (shared ones split), bytes in host memory and on
    disk, files, kept rows, pinned pages."""

    principal: str
    device_pages: int | None = None
    host_bytes: int | None = None
    disk_bytes: int | None = None
    files: int | None = None
    rows: int | None = None
    pinned_pages: int | None = None
    used_device_pages: float = 0.0
    used_host_bytes: int = 0
    used_disk_bytes: int = 0
    used_files: int = 0
    used_rows: int = 0
    used_pinned_pages: float = 0.0


@dataclass(frozen=True, slots=True)
class FsStat:
    """The file system (`statfs`), and the caller's part of it."""

    page_size: int
    page_bytes: int
    device_pages: int
    device_pages_free: int
    host_bytes: int
    host_bytes_used: int
    disk_bytes: int
    disk_bytes_used: int
    disk_bytes_free: int
    files: int
    max_files: int
    fingerprint: str
    quota: Quota


@dataclass(frozen=True, slots=True)
class FileEvent:
    """What happened to a file, numbered from 1. kind: `create` (it has this name now), `delete` (it lost it), `move` (`path`
    became `new_path`), `modify` (its tokens), `attrib` (mode, owner, attributes), `lock`, `tier` (its pages moved: `detail` says
    where)."""

    seq: int
    t_ns: int
    kind: str
    path: str
    ino: int
    new_path: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What gc or fsck found, and did. kind: `expired`, `orphan` (a page file that nobody refers to), `cold` (pages given up for
    room), `corrupt` (pages whose checksum is wrong: put aside), `missing`, `stale`, `rebuilt`, `lost` (an edited file whose pages
    cannot be had any more; its text can)."""

    kind: str
    path: str
    ino: int = 0
    num_bytes: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What a program and all that it spawns may use together, or a principal with all its programs. None: not limited.

    tokens        put into files and generated, both counted
    device_s      its share of the engine's steps, in seconds
    wall_s        seconds since it started (not of a principal)
    cpu_s         CPU time of its own code, in seconds
    memory_bytes  of one process (each has its own)
    tasks, fds    operating-system threads and open files of one process
    processes     programs that run at once
    depth         generations of children (0: it may spawn none; not of a principal)
    tool_calls    calls of tools
    calls_per_s   control calls a second of one process, on the average; more are not refused but read later
    """

    tokens: int | None = None
    device_s: float | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    tasks: int | None = None
    fds: int | None = None
    processes: int | None = None
    depth: int | None = None
    tool_calls: int | None = None
    calls_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process or a thread has used so far. `tokens_in`: given by it (open, append, forward); `tokens_out`: generated for it.
    `page_s`: pages of its open files times seconds; `tool_s`: waited for tools; `num_messages`: sent to channels."""

    num_calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    num_forwards: int = 0
    num_steps: int = 0
    device_s: float = 0.0
    cpu_s: float = 0.0
    page_s: float = 0.0
    tool_s: float = 0.0
    num_tools: int = 0
    num_messages: int = 0


@dataclass(frozen=True, slots=True)
class ThreadUsage:
    """One thread that has not ended, and what it has used. CPU time and page-seconds are known of the whole process only."""

    tid: int
    name: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended. code: 0 ok, 1 exception, 2 bad program or arguments, 124 a limit was used up, 129 its lease ran
    out, 130 cancelled, 137 killed or out of memory, 159 it tried a denied system call, 128+n other signals, 70 the device was lost.
    `reason`: `exit`, `exception`, `signal`, `cancelled`, `orphan`, `lease`, `device`, `program`, `limit` (`error` says which) or
    `denied`. `value` is what `main` returned, as JSON text; `error` the last line of the
    traceback."""

    code: int
    reason: str
    value: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """A process as `ps` shows it. `waiting` names the call that each blocked thread is in. `abi` is what the program was written
    for, "" when it did not say. `lease_s`: of a session, how long it outlives its last connection; `connected`: it has one.
    `session`: the pid at the top of its tree. `program`: what it runs, of the registry ("owner/name@version"), else "". `runtime`:
    `python`, `wasm`, `trusted`. `memory_bytes`: resident, as last looked at; 0 when nobody has looked. `num_running`, `num_queued`:
    its calls that the device computes, and that wait for their turn. `service`: weighted tokens that its program has had so far
    (docs/scheduling.md)."""

    pid: int
    parent: int | None
    name: str
    principal: str
    state: str
    started_ns: int
    ended_ns: int | None
    num_threads: int
    num_files: int
    num_pages: int
    waiting: tuple[str, ...]
    usage: Usage
    exit: ExitStatus | None = None
    kind: str = "program"
    abi: str = ""
    lease_s: float = 0.0
    connected: bool = True
    session: int = 0
    program: str = ""
    runtime: str = ""
    memory_bytes: int = 0
    num_running: int = 0
    num_queued: int = 0
    service: float = 0.0


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """One line of a process's output, numbered from 1. kind: `started`, `stdout`, `stderr`, `emit` (text is JSON), `exit` (text is
    the JSON of ExitStatus), `gap` (text says how many events were dropped)."""

    seq: int
    t_ns: int
    kind: str
    text: str
    pid: int = 0


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One line of the event log: who called what, with what result, when, in which engine steps. `args` is a short text without
    tokens or strings of the program."""

    seq: int
    pid: int
    tid: int
    op: str
    args: str
    result: str
    t_start_ns: int
    t_end_ns: int
    step_first: int | None = None
    step_last: int | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One engine step: when it ran, how many calls and plain requests had tokens in it, how many tokens it computed."""

    step: int
    t_start_ns: int
    t_end_ns: int
    num_calls: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A program or a session in the event log, when it began (`ended_ns` None) and again when it ended. `number` counts these
    records. `spawner`: its first parent. `traceparent`: the W3C trace context that its caller named for it."""

    number: int
    pid: int
    kind: str
    name: str
    principal: str
    spawner: int | None
    started_ns: int
    detached: bool = False
    program: str = ""
    runtime: str = ""
    traceparent: str = ""
    ended_ns: int | None = None
    code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One number of a metric (docs/metrics.md): its name as Prometheus has it, and its labels."""

    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyStat:
    """Who decides at a level of scheduling: `process`, `memory`, `batch`; with all its parameters. `source`: `default`, `flag` (of
    this start), `set` (by a call, kept over restarts)."""

    level: str
    policy: str
    parameters: dict[str, float] = field(default_factory=dict)
    source: str = "default"


@dataclass(frozen=True, slots=True)
class PrincipalStat:
    """A principal's part of the device against others', the most of its calls that compute at once (None: any), and what it has:
    calls that compute and that wait, weighted tokens so far."""

    principal: str
    weight: float = 1.0
    cap: int | None = None
    num_running: int = 0
    num_queued: int = 0
    service: float = 0.0


@dataclass(frozen=True, slots=True)
class ThreadWait:
    """What one thread of a process does now. `op` and `args` are the call that it is in, "" when it computes by itself. `cause`:

    running   no call is in flight: the program's own code runs (or it has not started)
    batch     the engine has the call and runs it in the next step or in this one
    pages     it waits until older programs give pages back
    queue     it waits for its turn: the batch is full, or a batch is being gathered
    lock      another call holds the file, or another process its lock
    disk      pages or records of a file are on their way
    tokenizer the text calls before it are worked on
    child     it waits until a child ends
    timer     it sleeps
    reader    what it streams is not read
    client    a session that nobody is connected to
    channel   it waits for a message, or for room for one
    tool      a tool works for it
    stopped   it was sent STOP
    """

    tid: int
    name: str
    op: str
    args: str
    since_ns: int
    cause: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the model can do, and its limits (`model_info`). `fingerprint` names what pages depend on: weights, LoRA, dtype, layout,
    position scheme; `page_bytes` is what a page takes in memory and on disk."""

    name: str
    vocab_size: int
    max_positions: int
    page_size: int
    num_pages: int
    max_top_k: int
    eos_tokens: tuple[int, ...]
    dtype: str = ""
    capabilities: tuple[str, ...] = ()
    unsupported: dict[str, str] = field(default_factory=dict)
    page_bytes: int = 0
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class SendFd:
    """An open file that goes along with a message: the receiver gets an fd of its own, to read and fork, with `writable` to write
    too (the sender must have it open so)."""

    fd: int
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """What `recv` gives. `fds`: files that came along, now open here. `token`: of a request, for `respond`; 0 of others. `missing`:
    messages before this one that were dropped because the queue was full (topics). `pid`, `principal`: who sent it."""

    seq: int
    data: bytes
    pid: int
    principal: str
    fds: tuple[int, ...] = ()
    token: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class ChannelStat:
    """A channel as `channels` shows it. `queued`: messages that wait, of a topic in the fullest queue; `receivers`, `senders`: open
    handles that may receive, or send."""

    name: str
    owner: str
    group: str
    mode: int
    kind: str
    overflow: str
    capacity: int
    queued: int
    receivers: int
    senders: int


@dataclass(frozen=True, slots=True)
class ToolInfo:
    """A tool as `tools` shows it. `schema`: of its arguments, JSON schema as text. `idempotent`: it may be tried again after a
    failure. `driver`: `http`, `mcp` or `python`."""

    name: str
    description: str
    schema: str
    idempotent: bool = False
    driver: str = ""


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """An installed program: `owner/name` at one version, never changed. `schema`: of its arguments, JSON schema as text. `tools`
    (None: what its caller grants), `paths` (None: any), `limits`, `dependencies`: what it declares. `mode`: who may see and run it
    (bits r and x, as of a file)."""

    name: str
    version: str
    owner: str
    sha256: str
    size: int
    runtime: str
    entry: str
    description: str
    schema: str
    created_ns: int
    mode: int = 0o755
    group: str = ""
    tools: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    dependencies: tuple[str, ...] = ()
    limits: ResourceLimits = ResourceLimits()
