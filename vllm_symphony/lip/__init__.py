"""The library of LLM inference programs: `from vllm_symphony import lip`.

    async def main(question: str) -> str:
        async with lip.open(tokens=lip.render_chat(question)) as chat:
            return (await chat.generate(200)).text

Every awaitable here is a system call: the only checkpoints and cancel points of a program. Light: standard library, abi, errors.
A guide with an example of each: docs/programs.md.
"""

from vllm_symphony.abi.types import (
    ExitStatus,
    FileStat,
    Grammar,
    ModelInfo,
    Predicate,
    ProcessStat,
    Sampler,
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
    NameTooLong,
    NoChild,
    NoSuchCall,
    NoSuchFile,
    NoSuchProcess,
    NotOwner,
    NotSupported,
    OutOfPages,
    QuotaExceeded,
    StaleFile,
    SymphonyError,
    TimedOut,
    TooManyFiles,
    Unauthenticated,
    WouldBlock,
)  # fmt: skip
from vllm_symphony.lip import transport
from vllm_symphony.lip.distribution import Distribution
from vllm_symphony.lip.file import File, open
from vllm_symphony.lip.generation import Completion, Generation, Piece
from vllm_symphony.lip.grammar import choice, ebnf, json, regex
from vllm_symphony.lip.many import forward_many
from vllm_symphony.lip.path import ls, rename, stat, unlink
from vllm_symphony.lip.predicate import Condition, after, best_in, entropy, every, margin, mass, top1
from vllm_symphony.lip.process import Process, ProgramFailed, detach, getpid, kill, ps, spawn
from vllm_symphony.lip.sampling import Token
from vllm_symphony.lip.text import detokenize, model_info, parse_tools, render_chat, tokenize
from vllm_symphony.lip.thread import Group, Thread, group
from vllm_symphony.lip.world import emit, monotonic, now, random, sleep

__all__ = [
    "AccessDenied", "BadFile", "BadProgram", "BrokenPipe", "Completion", "Condition", "ContextTooLong", "DataCorrupt",
    "DeviceLost", "Distribution", "ExitStatus", "File", "FileBusy", "FileExists", "FileStat", "Generation", "Grammar", "Group",
    "Interrupted", "InvalidArgument", "ModelInfo", "NameTooLong", "NoChild", "NoSuchCall", "NoSuchFile", "NoSuchProcess",
    "NotOwner", "NotSupported", "OutOfPages", "Piece", "Predicate", "Process", "ProcessStat", "ProgramFailed", "QuotaExceeded",
    "Sampler", "StaleFile", "SymphonyError", "Thread", "TimedOut", "Token", "TooManyFiles", "Unauthenticated", "WouldBlock",
    "after", "best_in", "choice", "detach", "detokenize", "ebnf", "emit", "entropy", "every", "forward_many", "getpid", "group",
    "json", "kill", "ls", "margin", "mass", "model_info", "monotonic", "now", "open", "parse_tools", "ps", "random", "regex",
    "rename", "render_chat", "sleep", "spawn", "stat", "tokenize", "top1", "transport", "unlink",
]  # fmt: skip
