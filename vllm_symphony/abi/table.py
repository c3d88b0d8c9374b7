"""The call table (abi/table.py): each system call with its arguments, its result, its errors, and what kind of call it is.

One table: the codec, the kernel's dispatch and the library read `CALLS`; the protos, the manual and what the kernel answers are
checked against it. A call that is not here is ENOSYS. What it may become is told in docs/abi.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vllm_symphony.abi.calls import (
    Advise,
    Append,
    Attach,
    AttachPart,
    BytesResult,
    CallTool,
    Cancel,
    ChannelArgs,
    ChannelName,
    ChannelOpen,
    ChannelResult,
    Channels,
    ChannelsResult,
    Chattr,
    Chmod,
    Chown,
    Concat,
    Detokenize,
    Done,
    DuResult,
    Emit,
    Exit,
    Export,
    ExportResult,
    Extract,
    FdArgs,
    FdResult,
    Feed,
    FileArgs,
    Find,
    FindResult,
    Flock,
    Forward,
    ForwardMany,
    ForwardManyResult,
    ForwardResult,
    Fsck,
    FsckResult,
    Gc,
    GcResult,
    Generate,
    GeneratePart,
    GenerateResult,
    Getquota,
    Getrlimit,
    Getrusage,
    Hello,
    HelloResult,
    Import,
    ImportResult,
    InfoResult,
    InheritedResult,
    Install,
    JsonResult,
    Kill,
    LeaseResult,
    LengthResult,
    Link,
    List,
    Listdir,
    ListResult,
    Logits,
    LogitsResult,
    Metrics,
    MetricsResult,
    Mkdir,
    ModelInfoResult,
    NoArgs,
    Open,
    ParseTools,
    PathArgs,
    PidArgs,
    PidResult,
    Pin,
    Poll,
    PollResult,
    ProgramArgs,
    ProgramResult,
    Programs,
    ProgramsResult,
    ProgramTextResult,
    Ps,
    PsResult,
    QuotaResult,
    Random,
    Read,
    ReadResult,
    Recv,
    RecvResult,
    Rename,
    RenderChat,
    Request,
    Respond,
    RlimitResult,
    RusageResult,
    Sample,
    SampleResult,
    SchedResult,
    Send,
    SendResult,
    Setquota,
    Setrlimit,
    Setsched,
    Setweight,
    Setxattr,
    Sleep,
    Spawn,
    Stat,
    StatfsResult,
    StatResult,
    Strace,
    StracePart,
    Sync,
    SyncResult,
    TextResult,
    ThreadEnd,
    ThreadStart,
    TimeResult,
    Tokenize,
    TokensResult,
    ToolResult,
    ToolsResult,
    Truncate,
    Umask,
    UmaskResult,
    Wait,
    WaitResult,
    Watch,
    WatchPart,
    WhyResult,
    Xattr,
    XattrsResult,
)  # fmt: skip

_ANY = ("EINVAL", "EAGAIN", "EINTR", "ESRCH", "EPERM", "EIO")  # what every call may answer, beside ENODEV of those with a device
_FD = ("EBADF",)
_NEW_FD = ("EMFILE", "EDQUOT")
_PATH = ("ENOENT", "ENAMETOOLONG", "EACCES", "ENOTDIR")
_FILE = (*_FD, *_PATH)
_KEPT = ("ENODEV", "ETIMEDOUT")  # of what waits for tiers or the store
_WRITE = ("EBADF", "EBUSY", "ESTALE", "EDQUOT", "EROFS")
_DEVICE = ("ENODEV", "ENOSPC", "ETIMEDOUT", "ENOTSUP", "EDQUOT", "ESTALE")


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
        """Reasons that it may answer, those of any call too. What waits may run out of time or of what it waits for: EDQUOT."""
        return frozenset(_ANY + self.errors + (("EDQUOT",) if self.kind in ("model", "text", "wait") else ()))


CALLS: Mapping[str, CallSpec] = {
    "hello": CallSpec(Hello, HelloResult, "control", ("ENOTSUP",)),
    "keep_alive": CallSpec(NoArgs, LeaseResult, "control"),
    "cancel": CallSpec(Cancel, Done, "control"),
    "open": CallSpec(Open, FdResult, "control", (*_PATH, *_NEW_FD, "EISDIR", "EROFS", "EEXIST", "EFBIG", "EBUSY"), mutates=True),
    "close": CallSpec(FdArgs, Done, "control", _FD, mutates=True),
    "dup": CallSpec(FdArgs, FdResult, "control", (*_FD, "EMFILE"), mutates=True),
    "fork": CallSpec(FdArgs, FdResult, "control", (*_FD, *_NEW_FD, "ESTALE"), mutates=True),
    "truncate": CallSpec(Truncate, Done, "control", _WRITE, mutates=True),
    "append": CallSpec(Append, LengthResult, "control", (*_WRITE, "EFBIG"), mutates=True),
    "read": CallSpec(Read, ReadResult, "control", (*_FILE, "EISDIR")),
    "link": CallSpec(Link, Done, "control", (*_FILE, "EISDIR", "EROFS", "EEXIST", "EDQUOT"), mutates=True),
    "unlink": CallSpec(PathArgs, Done, "control", (*_PATH, "EISDIR", "EROFS"), mutates=True),
    "rename": CallSpec(Rename, Done, "control", (*_PATH, "EISDIR", "EROFS", "ENOTEMPTY"), mutates=True),
    "stat": CallSpec(Stat, StatResult, "control", _FILE),
    "list": CallSpec(List, ListResult, "control"),
    "mkdir": CallSpec(Mkdir, Done, "control", (*_PATH, "EROFS", "EEXIST", "EDQUOT"), mutates=True),
    "rmdir": CallSpec(PathArgs, Done, "control", (*_PATH, "EROFS", "ENOTEMPTY", "EBUSY"), mutates=True),
    "listdir": CallSpec(Listdir, ListResult, "control", _PATH),
    "chmod": CallSpec(Chmod, Done, "control", (*_FILE, "EROFS"), mutates=True),
    "chown": CallSpec(Chown, Done, "control", (*_FILE, "EROFS", "EDQUOT"), mutates=True),
    "umask": CallSpec(Umask, UmaskResult, "control", mutates=True),
    "setxattr": CallSpec(Setxattr, Done, "control", (*_FILE, "EROFS", "EEXIST", "ENODATA", "EDQUOT"), mutates=True),
    "getxattr": CallSpec(Xattr, XattrsResult, "control", (*_FILE, "ENODATA")),
    "listxattr": CallSpec(FileArgs, XattrsResult, "control", _FILE),
    "removexattr": CallSpec(Xattr, Done, "control", (*_FILE, "EROFS", "ENODATA"), mutates=True),
    "chattr": CallSpec(Chattr, Done, "control", (*_FILE, "EROFS"), mutates=True),
    "extract": CallSpec(Extract, FdResult, "model", (*_FD, *_DEVICE, *_NEW_FD), mutates=True),
    "concat": CallSpec(Concat, FdResult, "model", (*_FD, *_DEVICE, *_NEW_FD, "EFBIG"), mutates=True),
    "flock": CallSpec(Flock, LeaseResult, "wait", (*_FD, "ETIMEDOUT"), mutates=True),
    "pin": CallSpec(Pin, Done, "control", (*_FILE, "EISDIR", "EROFS", "ENODEV", "EDQUOT", "ESTALE"), mutates=True),
    "advise": CallSpec(
        Advise, Done, "wait", (*_FILE, *_KEPT, "EISDIR", "EROFS", "ENOSPC", "EDQUOT", "ENOTSUP", "ESTALE", "EBUSY"), mutates=True
    ),
    "sync": CallSpec(Sync, SyncResult, "wait", (*_FILE, *_KEPT, "EISDIR", "EROFS", "ENOSPC", "EDQUOT", "ENOTSUP", "ESTALE")),
    "statfs": CallSpec(NoArgs, StatfsResult, "control"),
    "du": CallSpec(FileArgs, DuResult, "control", _FILE),
    "setquota": CallSpec(Setquota, Done, "edge", mutates=True),
    "getquota": CallSpec(Getquota, QuotaResult, "control"),
    "find": CallSpec(Find, FindResult, "wait", (*_PATH, "ETIMEDOUT", "ENODEV")),
    "watch": CallSpec(Watch, Done, "wait", _PATH, part=WatchPart),
    "gc": CallSpec(Gc, GcResult, "edge", _KEPT, mutates=True),
    "fsck": CallSpec(Fsck, FsckResult, "edge", (*_PATH, *_KEPT, "ENOSPC"), mutates=True),
    "export": CallSpec(
        Export, ExportResult, "edge", (*_PATH, *_KEPT, "EISDIR", "EROFS", "ENOSPC", "EDQUOT", "ENOTSUP", "ESTALE", "EBUSY")
    ),
    "import": CallSpec(
        Import,
        ImportResult,
        "edge",
        (*_PATH, *_KEPT, "EISDIR", "EROFS", "ENOSPC", "EDQUOT", "ENOTSUP", "EEXIST", "EFBIG"),
        mutates=True,
    ),
    "forward": CallSpec(Forward, ForwardResult, "model", (*_WRITE, *_DEVICE, "EFBIG"), mutates=True),
    "forward_many": CallSpec(ForwardMany, ForwardManyResult, "model", mutates=True),
    "sample": CallSpec(Sample, SampleResult, "model", (*_FD, *_DEVICE), mutates=True),
    "logits": CallSpec(Logits, LogitsResult, "model", (*_FD, *_DEVICE)),
    "generate": CallSpec(Generate, GenerateResult, "model", (*_WRITE, *_DEVICE, "EFBIG"), part=GeneratePart, mutates=True),
    "tokenize": CallSpec(Tokenize, TokensResult, "text", ("ENODEV", "ENOTSUP")),
    "detokenize": CallSpec(Detokenize, TextResult, "text", ("ENODEV", "ENOTSUP")),
    "render_chat": CallSpec(RenderChat, TokensResult, "text", ("ENODEV", "ENOTSUP")),
    "parse_tools": CallSpec(ParseTools, JsonResult, "text", ("ENODEV", "ENOTSUP")),
    "model_info": CallSpec(NoArgs, ModelInfoResult, "control"),
    "spawn": CallSpec(
        Spawn, PidResult, "control", (*_FD, "ENOENT", "EACCES", "ENOEXEC", "EDQUOT", "EMFILE", "ENOTSUP"), mutates=True
    ),
    "inherited": CallSpec(NoArgs, InheritedResult, "control"),
    "feed": CallSpec(Feed, Done, "control", ("EPIPE",), mutates=True),
    "getrlimit": CallSpec(Getrlimit, RlimitResult, "control"),
    "setrlimit": CallSpec(Setrlimit, Done, "control", mutates=True),
    "getrusage": CallSpec(Getrusage, RusageResult, "control"),
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
    "channel_open": CallSpec(
        ChannelOpen, ChannelResult, "control", ("ENOENT", "EACCES", "EEXIST", "ENAMETOOLONG", "EMFILE", "EDQUOT"), mutates=True
    ),
    "channel_close": CallSpec(ChannelArgs, Done, "control", _FD, mutates=True),
    "channel_unlink": CallSpec(ChannelName, Done, "control", ("ENOENT", "EACCES", "ENAMETOOLONG"), mutates=True),
    "channels": CallSpec(Channels, ChannelsResult, "control"),
    "send": CallSpec(Send, SendResult, "wait", (*_FD, "EACCES", "EPIPE", "ETIMEDOUT", "EDQUOT"), mutates=True),
    "recv": CallSpec(Recv, RecvResult, "wait", (*_FD, "EACCES", "EPIPE", "ETIMEDOUT", "EMFILE", "EDQUOT"), mutates=True),
    "request": CallSpec(Request, RecvResult, "wait", (*_FD, "EACCES", "EPIPE", "ETIMEDOUT", "EMFILE", "EDQUOT"), mutates=True),
    "respond": CallSpec(Respond, Done, "control", (*_FD, "EPIPE"), mutates=True),
    "poll": CallSpec(Poll, PollResult, "wait", (*_FD, "EACCES")),
    "tools": CallSpec(NoArgs, ToolsResult, "control"),
    "call_tool": CallSpec(
        CallTool, ToolResult, "wait", ("ENOENT", "EACCES", "EDQUOT", "EPIPE", "ETIMEDOUT", "ENOTSUP", "ENODEV"), mutates=True
    ),
    "install": CallSpec(
        Install, ProgramResult, "edge", ("EACCES", "EEXIST", "ENOEXEC", "ENAMETOOLONG", "EDQUOT", "ENOTSUP"), mutates=True
    ),
    "uninstall": CallSpec(ProgramArgs, Done, "edge", ("ENOENT", "EACCES"), mutates=True),
    "programs": CallSpec(Programs, ProgramsResult, "edge"),
    "program": CallSpec(ProgramArgs, ProgramTextResult, "edge", ("ENOENT", "EACCES")),
    "attach": CallSpec(Attach, Done, "edge", part=AttachPart),
    "strace": CallSpec(Strace, Done, "edge", part=StracePart),
    "why": CallSpec(PidArgs, WhyResult, "edge"),
    "info": CallSpec(NoArgs, InfoResult, "edge"),
    "metrics": CallSpec(Metrics, MetricsResult, "edge"),
    "getsched": CallSpec(NoArgs, SchedResult, "edge"),
    "setsched": CallSpec(Setsched, Done, "edge", ("ENOTSUP",), mutates=True),
    "setweight": CallSpec(Setweight, Done, "edge", mutates=True),
    "ping": CallSpec(NoArgs, Done, "control"),
}
