"""The library of LLM inference programs: `from vllm_symphony import lip`.

    async def main(question: str) -> str:
        async with lip.open(tokens=lip.render_chat(question)) as chat:
            return (await chat.generate(200)).text

Every awaitable here is a system call: the only checkpoints and cancel points of a program. Light: standard library, abi, errors.
A guide with an example of each: docs/programs.md.
"""

from vllm_symphony.abi.types import (
    ChannelStat,
    ExitStatus,
    FileEvent,
    FileStat,
    FsStat,
    Grammar,
    ModelInfo,
    Predicate,
    ProcessStat,
    Quota,
    Sampler,
    Span,
)  # fmt: skip
from vllm_symphony.errors import (
    AccessDenied,
    BadFile,
    BadProgram,
    BrokenPipe,
    ContextTooLong,
    DataCorrupt,
    DeviceLost,
    FileBusy,
    FileExists,
    Interrupted,
    InvalidArgument,
    IsDirectory,
    NameTooLong,
    NoAttribute,
    NoChild,
    NoSuchCall,
    NoSuchFile,
    NoSuchProcess,
    NotDirectory,
    NotEmpty,
    NotOwner,
    NotSupported,
    OutOfPages,
    QuotaExceeded,
    ReadOnly,
    StaleFile,
    SymphonyError,
    TimedOut,
    TooManyFiles,
    Unauthenticated,
    WouldBlock,
)  # fmt: skip
from vllm_symphony.lip import transport
from vllm_symphony.lip.channel import Channel, Message, channel, channel_unlink, channels
from vllm_symphony.lip.distribution import Distribution
from vllm_symphony.lip.edit import concat, copy
from vllm_symphony.lip.file import File, open
from vllm_symphony.lip.generation import Completion, Generation, Piece
from vllm_symphony.lip.grammar import choice, ebnf, json, regex
from vllm_symphony.lip.lock import Lock
from vllm_symphony.lip.many import forward_many
from vllm_symphony.lip.path import (
    advise,
    cat,
    chattr,
    chmod,
    chown,
    du,
    find,
    getquota,
    getxattr,
    listdir,
    listxattr,
    ls,
    mkdir,
    pin,
    removexattr,
    rename,
    rmdir,
    setxattr,
    stat,
    statfs,
    sync,
    umask,
    unlink,
)  # fmt: skip
from vllm_symphony.lip.predicate import Condition, after, best_in, entropy, every, margin, mass, top1
from vllm_symphony.lip.process import (
    Limits,
    Process,
    ProgramFailed,
    detach,
    getpid,
    getrlimit,
    getrusage,
    inherited,
    kill,
    ps,
    setrlimit,
    spawn,
)  # fmt: skip
from vllm_symphony.lip.sampling import Token
from vllm_symphony.lip.select import select
from vllm_symphony.lip.stdin import stdin
from vllm_symphony.lip.text import detokenize, model_info, parse_tools, render_chat, tokenize
from vllm_symphony.lip.thread import Group, Thread, group
from vllm_symphony.lip.tool import call_tool, run_tools, tool_request, tools
from vllm_symphony.lip.watch import Watch, watch
from vllm_symphony.lip.world import emit, monotonic, now, random, sleep

__all__ = [
    "AccessDenied", "BadFile", "BadProgram", "BrokenPipe", "Channel", "ChannelStat", "Completion", "Condition",
    "ContextTooLong", "DataCorrupt", "DeviceLost", "Distribution", "ExitStatus", "File", "FileBusy", "FileEvent", "FileExists",
    "FileStat", "FsStat", "Generation", "Grammar", "Group", "Interrupted", "InvalidArgument", "IsDirectory", "Limits", "Lock",
    "Message", "ModelInfo", "NameTooLong", "NoAttribute", "NoChild", "NoSuchCall", "NoSuchFile", "NoSuchProcess",
    "NotDirectory", "NotEmpty", "NotOwner", "NotSupported", "OutOfPages", "Piece", "Predicate", "Process", "ProcessStat",
    "ProgramFailed", "Quota", "QuotaExceeded", "ReadOnly", "Sampler", "Span", "StaleFile", "SymphonyError", "Thread",
    "TimedOut", "Token", "TooManyFiles", "Unauthenticated", "Watch", "WouldBlock", "advise", "after", "best_in", "call_tool",
    "cat", "channel", "channel_unlink", "channels", "chattr", "chmod", "choice", "chown", "concat", "copy", "detach",
    "detokenize", "du", "ebnf", "emit", "entropy", "every", "find", "forward_many", "getpid", "getquota", "getrlimit",
    "getrusage", "getxattr", "group", "inherited", "json", "kill", "listdir", "listxattr", "ls", "margin", "mass", "mkdir",
    "model_info", "monotonic", "now", "open", "parse_tools", "pin", "ps", "random", "regex", "removexattr", "rename",
    "render_chat", "rmdir", "run_tools", "select", "setrlimit", "setxattr", "sleep", "spawn", "stat", "statfs", "stdin", "sync",
    "tokenize", "tool_request", "tools", "top1", "transport", "umask", "unlink", "watch",
]  # fmt: skip
