"""The call table (abi/table.py): each system call with its arguments, its result, its errors, and what kind of call it is.

One table: the codec, the kernel's dispatch and the library read `CALLS`; the protos, the manual and what the kernel answers are
checked against it. A call that is not here is ENOSYS. What it may become is told in docs/abi.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_symphony.abi.calls import (
    Append,
    Attach,
    AttachPart,
    BytesResult,
    Cancel,
    Detokenize,
    Done,
    Emit,
    Exit,
    FdArgs,
    FdResult,
    Forward,
    ForwardMany,
    ForwardManyResult,
    ForwardResult,
    Generate,
    GeneratePart,
    GenerateResult,
    Hello,
    HelloResult,
    InfoResult,
    JsonResult,
    Kill,
    LeaseResult,
    LengthResult,
    Link,
    List,
    ListResult,
    Logits,
    LogitsResult,
    ModelInfoResult,
    NoArgs,
    Open,
    ParseTools,
    PathArgs,
    PidArgs,
    PidResult,
    Ps,
    PsResult,
    Random,
    Read,
    ReadResult,
    Rename,
    RenderChat,
    Sample,
    SampleResult,
    Sleep,
    Spawn,
    Stat,
    StatResult,
    Strace,
    StracePart,
    TextResult,
    ThreadEnd,
    ThreadStart,
    TimeResult,
    Tokenize,
    TokensResult,
    Truncate,
    Wait,
    WaitResult,
    WhyResult,
)  # fmt: skip

_ANY = ("EINVAL", "EAGAIN", "EINTR", "ESRCH", "EPERM", "EIO")  # what every call may answer, beside ENODEV of those with a device
_FD = ("EBADF",)
_NEW_FD = ("EMFILE", "EDQUOT")
_PATH = ("ENOENT", "ENAMETOOLONG")
_WRITE = ("EBADF", "EBUSY", "ESTALE")
_DEVICE = ("ENODEV", "ENOSPC", "ETIMEDOUT", "ENOTSUP")


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One row of the table. kind: `control` (answered from identity, never waits for a step), `model` (waits for the device),
    `text` (waits for the tokenizer), `wait` (waits for an event), `edge` (only for role edge or client). `errors`: reasons that it
    may answer beside those of any call. `mutates`: a `request_id` makes its retry happen once."""

    args: type
    result: type
    kind: str
    errors: tuple[str, ...] = ()
    part: type | None = None
    mutates: bool = False

    @property
    def all_errors(self) -> frozenset[str]:
        """Reasons that it may answer, those of any call too."""
        return frozenset(_ANY + self.errors)


CALLS: Mapping[str, CallSpec] = {
    "hello": CallSpec(Hello, HelloResult, "control", ("ENOTSUP",)),
    "keep_alive": CallSpec(NoArgs, LeaseResult, "control"),
    "cancel": CallSpec(Cancel, Done, "control"),
    "open": CallSpec(Open, FdResult, "control", (*_PATH, "EEXIST", "EACCES", "EFBIG", "EBUSY", *_NEW_FD), mutates=True),
    "close": CallSpec(FdArgs, Done, "control", _FD, mutates=True),
    "dup": CallSpec(FdArgs, FdResult, "control", (*_FD, "EMFILE"), mutates=True),
    "fork": CallSpec(FdArgs, FdResult, "control", (*_FD, *_NEW_FD), mutates=True),
    "truncate": CallSpec(Truncate, Done, "control", _WRITE, mutates=True),
    "append": CallSpec(Append, LengthResult, "control", (*_WRITE, "EFBIG"), mutates=True),
    "read": CallSpec(Read, ReadResult, "control", (*_FD, *_PATH, "EACCES")),
    "link": CallSpec(Link, Done, "control", (*_FD, "EEXIST", "ENAMETOOLONG"), mutates=True),
    "unlink": CallSpec(PathArgs, Done, "control", _PATH, mutates=True),
    "rename": CallSpec(Rename, Done, "control", _PATH, mutates=True),
    "stat": CallSpec(Stat, StatResult, "control", (*_FD, *_PATH, "EACCES")),
    "list": CallSpec(List, ListResult, "control"),
    "forward": CallSpec(Forward, ForwardResult, "model", (*_WRITE, *_DEVICE, "EFBIG"), mutates=True),
    "forward_many": CallSpec(ForwardMany, ForwardManyResult, "model", mutates=True),
    "sample": CallSpec(Sample, SampleResult, "model", (*_FD, *_DEVICE, "ESTALE"), mutates=True),
    "logits": CallSpec(Logits, LogitsResult, "model", (*_FD, *_DEVICE, "ESTALE")),
    "generate": CallSpec(Generate, GenerateResult, "model", (*_WRITE, *_DEVICE, "EFBIG"), part=GeneratePart, mutates=True),
    "tokenize": CallSpec(Tokenize, TokensResult, "text", ("ENODEV", "ENOTSUP")),
    "detokenize": CallSpec(Detokenize, TextResult, "text", ("ENODEV", "ENOTSUP")),
    "render_chat": CallSpec(RenderChat, TokensResult, "text", ("ENODEV", "ENOTSUP")),
    "parse_tools": CallSpec(ParseTools, JsonResult, "text", ("ENODEV", "ENOTSUP")),
    "model_info": CallSpec(NoArgs, ModelInfoResult, "control"),
    "spawn": CallSpec(Spawn, PidResult, "control", ("ENOTSUP",), mutates=True),
    "wait": CallSpec(Wait, WaitResult, "wait", ("ECHILD", "ETIMEDOUT"), mutates=True),
    "kill": CallSpec(Kill, Done, "control", mutates=True),
    "ps": CallSpec(Ps, PsResult, "control"),
    "getpid": CallSpec(NoArgs, PidResult, "control"),
    "sleep": CallSpec(Sleep, Done, "wait"),
    "now": CallSpec(NoArgs, TimeResult, "control"),
    "monotonic": CallSpec(NoArgs, TimeResult, "control"),
    "random": CallSpec(Random, BytesResult, "control", mutates=True),
    "emit": CallSpec(Emit, Done, "control", mutates=True),
    "exit": CallSpec(Exit, Done, "control", mutates=True),
    "thread_start": CallSpec(ThreadStart, Done, "control", mutates=True),
    "thread_end": CallSpec(ThreadEnd, Done, "control", mutates=True),
    "attach": CallSpec(Attach, Done, "edge", part=AttachPart),
    "strace": CallSpec(Strace, Done, "edge", part=StracePart),
    "why": CallSpec(PidArgs, WhyResult, "edge"),
    "info": CallSpec(NoArgs, InfoResult, "edge"),
    "ping": CallSpec(NoArgs, Done, "control"),
}
