"""What a call was asked for, in a few words (trace/summary.py).

    forward  ->  (3, 1, 20)  ->  "fd=3 n=1 top_k=20"

The event log keeps 100,000 calls, so it must not keep their arguments: token lists and program sources would hold gigabytes and
would leak into whoever reads the log. `digest` takes the few numbers and file names that tell a call from its neighbour, at the
moment of the call; `text` makes words of them when somebody reads. Sizes stand for contents: `n` tokens, `chars` of text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Digest = tuple[Any, ...]
Row = tuple[tuple[str, ...], Callable[[Any], Digest]]

_FD: Row = (("fd",), lambda a: (a.fd,))
_PATH: Row = (("path",), lambda a: (a.path,))
_FILE: Row = (("fd", "path"), lambda a: (a.fd, a.path))
_XATTR: Row = (("fd", "path", "name"), lambda a: (a.fd, a.path, a.name))
_CH: Row = (("ch",), lambda a: (a.ch,))
_SEND: Row = (("ch", "bytes", "files"), lambda a: (a.ch, len(a.data), len(a.fds) or None))
_PID: Row = (("pid",), lambda a: (a.pid,))
_TID: Row = (("tid",), lambda a: (a.tid,))

_ROWS: Mapping[str, Row] = {
    "cancel": (("target",), lambda a: (a.target,)),
    "open": (
        ("path", "n", "flags", "require"),
        lambda a: (a.path, None if a.tokens is None else len(a.tokens) >> 2, int(a.flags), a.require or None),
    ),
    "close": _FD,
    "dup": _FD,
    "fork": _FD,
    "truncate": (("fd", "length", "at"), lambda a: (a.fd, a.length, a.at)),
    "append": (("fd", "n", "at"), lambda a: (a.fd, len(a.tokens) >> 2, a.at)),
    "read": (("fd", "path", "offset", "count"), lambda a: (a.fd, a.path, a.offset, a.count)),
    "link": (("fd", "path", "replace"), lambda a: (a.fd, a.path, a.replace or None)),
    "unlink": _PATH,
    "rename": (("old", "new"), lambda a: (a.old, a.new)),
    "stat": _FILE,
    "list": (("prefix",), lambda a: (a.prefix,)),
    "mkdir": (("path", "mode", "parents"), lambda a: (a.path, f"{a.mode:04o}", a.parents or None)),
    "rmdir": _PATH,
    "listdir": (("path", "recursive"), lambda a: (a.path, a.recursive or None)),
    "chmod": (("fd", "path", "mode"), lambda a: (a.fd, a.path, f"{a.mode:04o}")),
    "chown": (("fd", "path", "owner", "group"), lambda a: (a.fd, a.path, a.owner, a.group)),
    "umask": (("mask",), lambda a: (None if a.mask is None else f"{a.mask:04o}",)),
    "setxattr": (("fd", "path", "name", "chars"), lambda a: (a.fd, a.path, a.name, len(a.value))),
    "getxattr": _XATTR,
    "listxattr": _FILE,
    "removexattr": _XATTR,
    "chattr": (
        ("fd", "path", "durable", "expires_s", "ttl_s"),
        lambda a: (a.fd, a.path, a.durable, a.expires_s, a.ttl_s),
    ),
    "extract": (("fd", "spans", "n", "positions"), lambda a: (a.fd, len(a.spans), _length(a.spans), a.positions)),
    "concat": (("files", "mode"), lambda a: (len(a.fds), a.mode)),
    "flock": (("fd", "kind", "lease_s"), lambda a: (a.fd, a.kind, a.lease_s)),
    "pin": (("fd", "path", "pinned"), lambda a: (a.fd, a.path, a.pinned)),
    "advise": (
        ("fd", "path", "advice", "tier"),
        lambda a: (a.fd, a.path, a.advice, a.tier if a.advice == "dontneed" else None),
    ),
    "sync": _FILE,
    "du": _FILE,
    "setsched": (("level", "policy"), lambda a: (a.level, a.policy or None)),
    "setweight": (("principal", "weight", "cap"), lambda a: (a.principal, a.weight, a.cap)),
    "setquota": (("principal",), lambda a: (a.principal,)),
    "getquota": (("principal",), lambda a: (a.principal or None,)),
    "find": (("path", "name", "chars", "limit"), lambda a: (a.path, a.name or None, len(a.text) or None, a.limit)),
    "watch": (("path", "recursive"), lambda a: (a.path, a.recursive)),
    "gc": (("dry_run",), lambda a: (a.dry_run or None,)),
    "fsck": (("path", "rebuild"), lambda a: (a.path, a.rebuild or None)),
    "export": (("path", "pages"), lambda a: (a.path, a.pages)),
    "import": (("path", "trust"), lambda a: (a.path, a.trust or None)),
    "forward": (("fd", "n", "top_k"), lambda a: (a.fd, len(a.tokens) >> 2, a.top_k)),
    "forward_many": (("items", "n"), lambda a: (len(a.items), sum(len(i.tokens) >> 2 for i in a.items))),
    "sample": (("fd", "position", "n"), lambda a: (a.fd, a.position, a.n)),
    "logits": (("fd", "position"), lambda a: (a.fd, a.position)),
    "generate": (
        ("fd", "max_tokens", "grammar", "until"),
        lambda a: (a.fd, a.max_tokens, a.grammar and a.grammar.kind, a.until and a.until.op),
    ),
    "tokenize": (("chars",), lambda a: (len(a.text),)),
    "detokenize": (("n",), lambda a: (len(a.tokens) >> 2,)),
    "render_chat": (("chars",), lambda a: (len(a.messages),)),
    "parse_tools": (("chars", "parser"), lambda a: (len(a.text), a.parser)),
    "call_tool": (("name", "chars", "timeout_s"), lambda a: (a.name, len(a.args), a.timeout_s)),
    "channel_open": (
        ("name", "access", "flags", "kind"),
        lambda a: (a.name or None, a.access, int(a.flags), a.kind if a.flags or not a.name else None),
    ),
    "channel_close": _CH,
    "channel_unlink": (("name",), lambda a: (a.name,)),
    "channels": (("prefix",), lambda a: (a.prefix or None,)),
    "send": _SEND,
    "recv": _CH,
    "request": _SEND,
    "respond": (("token", "bytes", "files"), lambda a: (a.token, len(a.data), len(a.fds) or None)),
    "poll": (("receive", "send", "timeout_s"), lambda a: (_few(a.receive), _few(a.send), a.timeout_s)),
    "spawn": (("entry", "program", "detach"), lambda a: (a.entry, a.program[:320] or None, a.detach or None)),
    "wait": _PID,
    "kill": (("pid", "signal"), lambda a: (a.pid, a.signal)),
    "feed": (("pid", "bytes", "eof"), lambda a: (a.pid, len(a.data), a.eof or None)),
    "getrlimit": (("pid", "principal"), lambda a: (a.pid, a.principal)),
    "setrlimit": (("pid", "principal"), lambda a: (a.pid, a.principal)),
    "getrusage": _PID,
    "ps": _PID,
    "sleep": (("seconds",), lambda a: (a.seconds,)),
    "random": (("count",), lambda a: (a.count,)),
    "emit": (("chars",), lambda a: (len(a.value),)),
    "exit": (("code", "reason"), lambda a: (a.code, a.reason)),
    "thread_start": _TID,
    "thread_end": _TID,
    "install": (
        ("name", "version", "size", "mode"),
        lambda a: (a.name[:64], a.version[:64], len(a.source) or len(a.code), f"{a.mode:04o}"),
    ),
    "uninstall": (("program",), lambda a: (a.program[:320],)),
    "programs": (("pattern",), lambda a: (a.pattern[:64] or None,)),
    "program": (("program",), lambda a: (a.program[:320],)),
    "attach": (("pid", "from_seq"), lambda a: (a.pid, a.from_seq)),
    "strace": _PID,
    "why": _PID,
}
_NAMES: Mapping[str, tuple[str, ...]] = {op: names for op, (names, _) in _ROWS.items()}
DIGESTS: Mapping[str, Callable[[Any], Digest]] = {op: take for op, (_, take) in _ROWS.items()}


def _few(numbers: tuple[int, ...]) -> str | None:
    return ",".join(map(str, numbers[:8])) or None


def _length(spans: tuple[Any, ...]) -> int:
    return sum(span.stop - span.start for span in spans)


def text(op: str, digest: Digest) -> str:
    """Words for a digest; what was left out (None) stays out."""
    pairs = zip(_NAMES.get(op, ()), digest, strict=False)
    return " ".join(f"{name}={_clip(value)}" for name, value in pairs if value is not None)


def _clip(value: Any) -> str:
    words = str(value)
    return words if len(words) <= 64 else words[:61] + "..."
