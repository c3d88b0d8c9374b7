"""What is said in the transcripts (tests/abi/record.py): `plain` by any client, `session` by one of 1.1."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.abi.transcript import SECRET
from vllm_symphony.abi.calls import (
    Append,
    Attach,
    Cancel,
    Detokenize,
    Emit,
    Exit,
    FdArgs,
    Forward,
    ForwardMany,
    Generate,
    Hello,
    Kill,
    Link,
    List,
    Logits,
    NoArgs,
    Open,
    ParseTools,
    PathArgs,
    PidArgs,
    Ps,
    Random,
    Read,
    Rename,
    RenderChat,
    Sample,
    Sleep,
    Spawn,
    Stat,
    Strace,
    ThreadEnd,
    ThreadStart,
    Tokenize,
    Truncate,
    Wait,
)  # fmt: skip
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Grammar, Predicate, Sampler, pack_tokens

if TYPE_CHECKING:
    from tests.abi.record import Recorder

FOREVER = 3600.0
PROGRAM = """
from vllm_symphony import lip

async def main(word: str = "hello") -> str:
    print(word)
    await lip.sleep(0)
    lip.emit({"word": word})
    return word.upper()

async def stay() -> None:
    await lip.sleep(3600)
"""


def text(words: str) -> bytes:
    """Tokens of the simulated tokenizer: bytes."""
    return pack_tokens(list(words.encode()))


def plain(r: Recorder) -> None:
    """Every call that a plain client can make, errors, streams, a cancel, what nobody knows."""
    r.note("a call before the hello ends the connection")
    r.call("ping", NoArgs(), on=100)
    r.closed(100)
    r.note("a frame that is none")
    r.hello(Hello(ABI_MAJOR, ABI_MINOR), on=102)
    r.send(b"\x01\x00\x00\x00\xc1", on=102)
    r.take(0, on=102)
    r.closed(102)
    r.note("hello")
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, "client"))
    _files(r)
    _model(r)
    _text(r)
    _world(r)
    _processes(r)
    _errors(r)
    r.note("goodbye")
    r.cut()


def _files(r: Recorder) -> None:
    r.note("files")
    fd = r.call("open", Open(tokens=text("Once upon a time")))["fd"]
    named = r.call("open", Open(path="/golden/a", tokens=text("named"), flags=3, mode=0o640))["fd"]
    r.call("append", Append(fd, text(", "), at=16))
    r.call("append", Append(fd, text("there"), start=40))
    r.call("read", Read(fd=fd))
    r.call("read", Read(path="/golden/a", offset=1, count=2))
    r.call("truncate", Truncate(fd, 18, at=23))
    fork = r.call("fork", FdArgs(fd))["fd"]
    again = r.call("dup", FdArgs(fd))["fd"]
    r.call("link", Link(fork, "/golden/b"))
    r.call("rename", Rename("/golden/b", "/golden/c"))
    r.call("list", List("/golden/"))
    r.call("stat", Stat(fd=fd))
    r.call("stat", Stat(path="/golden/c"))
    for one in (fork, again, named, fd):
        r.call("close", FdArgs(one))
    r.call("unlink", PathArgs("/golden/a"))
    r.call("unlink", PathArgs("/golden/c"))
    r.call("list", List())


def _model(r: Recorder) -> None:
    r.note("the model")
    r.call("model_info", NoArgs())
    fd = r.call("open", Open(tokens=text("Once upon")))["fd"]
    other = r.call("open", Open(tokens=text("Twice")))["fd"]
    r.call("forward", Forward(fd, text(" a time"), top_k=3, entropy=True, temperature=0.5))
    r.call("forward", Forward(fd, top_k=2, keep="none"))
    r.call("forward", Forward(fd, text("ab"), outputs="all", top_k=1))
    r.call("forward", Forward(fd, text("cd"), outputs="", indices=pack_tokens([1]), top_k=1, at=18, timeout_s=60.0))
    r.call("forward_many", ForwardMany((Forward(fd, text("x"), top_k=1), Forward(other, text("y"), top_k=1), Forward(999))))
    r.call("sample", Sample(fd, n=3, sampler=Sampler(temperature=1.0, top_k=8, seed=5)))
    r.call("sample", Sample(fd, position=3, grammar=Grammar("choice", '["yes", "no"]')))
    r.call("logits", Logits(fd, position=0))
    how = Sampler(temperature=0.7, top_p=0.9, seed=3, presence_penalty=0.5, logit_bias={101: 1.0})
    r.call("generate", Generate(fd, 6, how, logprobs=True, ignore_eos=True))
    r.call("generate", Generate(fd, 5, stream=True, ignore_eos=True))
    r.call("generate", Generate(fd, 9, until=Predicate("or", parts=(Predicate("after", 2.0), Predicate("entropy", 90.0)))))
    r.call("generate", Generate(other, 40, grammar=Grammar("regex", "[ab]{3}")))
    for one in (fd, other):
        r.call("close", FdArgs(one))


def _text(r: Recorder) -> None:
    r.note("text")
    r.call("tokenize", Tokenize("déjà vu", special=False))
    r.call("detokenize", Detokenize(text("déjà")))
    r.call("render_chat", RenderChat('[{"role": "user", "content": "hi"}]'))
    said = '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>'
    r.call("parse_tools", ParseTools(said, "hermes"))


def _world(r: Recorder) -> None:
    r.note("time, chance, threads")
    r.call("getpid", NoArgs())
    r.call("now", NoArgs())
    r.call("monotonic", NoArgs())
    r.call("sleep", Sleep(0.001))
    r.call("random", Random(16))
    r.call("emit", Emit('{"x": 1}'))
    r.call("ping", NoArgs())
    r.call("thread_start", ThreadStart(1, "worker"))
    r.call("getpid", NoArgs(), tid=1)
    r.call("thread_end", ThreadEnd(1))
    r.call("info", NoArgs(), varying=("json",))
    r.note("a call that is cancelled, and a cancel of nothing")
    asleep = r.start("sleep", Sleep(FOREVER))
    r.call("cancel", Cancel(asleep))
    r.call("cancel", Cancel(4711))


def _processes(r: Recorder) -> None:
    r.note("processes")
    pid = r.call("spawn", Spawn(PROGRAM, args='{"word": "hi"}', name="golden.py"))["pid"]
    r.call("attach", Attach(pid))
    r.call("strace", Strace(pid))
    r.call("wait", Wait(pid, FOREVER))
    child = r.call("spawn", Spawn(PROGRAM, entry="stay"))["pid"]
    r.call("wait", Wait(child, 0.001))
    r.call("kill", Kill(child, "KILL"))
    r.call("wait", Wait())
    r.call("ps", Ps())
    r.call("ps", Ps(r.call("getpid", NoArgs())["pid"]))


def _errors(r: Recorder) -> None:
    r.note("errors")
    r.call("open", Open(path="/nowhere"))
    r.call("open", Open(path="/" + "x" * 300))
    r.call("open", Open(path="relative"))
    fd = r.call("open", Open(path="/golden/a", flags=3))["fd"]
    r.call("open", Open(path="/golden/a", flags=2 | 4))
    r.call("append", Append(fd, text("a"), at=9))
    r.call("append", Append(fd, pack_tokens([1 << 30])))
    r.call("forward", Forward(fd))
    r.call("append", Append(fd, text("abc")))
    r.call("append", Append(fd, text("d"), start=1 << 20))
    r.call("generate", Generate(fd, grammar=Grammar("regex", "(")))
    r.call("close", FdArgs(77))
    r.call("wait", Wait(4711))
    r.call("kill", Kill(4711))
    r.call("exit", Exit(0))
    r.call("thread_end", ThreadEnd(9))
    r.call("unlink", PathArgs("/golden/a"))
    r.call("close", FdArgs(fd))
    r.note("what nobody knows")
    r.raw("frobnicate", {})
    r.raw("close", {"fd": 3, "gently": True})
    r.raw("close", {})
    r.raw("close", {"fd": "three"})
    r.raw("generate", {"fd": 3, "until": {"op": "and", "parts": [{"op": "top1", "when": 1}]}})


def session(r: Recorder) -> None:
    """A session that is cut, resumed, replayed, acknowledged; retries; chunks; what came with 1.1."""
    r.note("another major version is refused")
    r.call("hello", Hello(ABI_MAJOR + 8, 0), on=101)
    r.closed(101)
    r.note("a client that takes chunks")
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, "client", features=("chunks",)), on=2)
    r.call("tokenize", Tokenize("a" * 20_000), on=2, piece=7_000)
    r.call("keep_alive", NoArgs(), on=2)
    r.note("a retry happens once")
    opened = Open(tokens=text("once"))
    first = r.call("open", opened, on=2, request_id="r1")
    assert r.call("open", opened, on=2, request_id="r1") == first
    r.call("open", Open(tokens=text("twice")), on=2, request_id="r1")
    r.note("what a program was written for, and what it waits for")
    r.call("spawn", Spawn(PROGRAM, abi="9.0"), on=2)
    pid = r.call("spawn", Spawn(PROGRAM, entry="stay", abi="1.1"), on=2)["pid"]
    r.call("why", PidArgs(pid), on=2, varying=("threads", "waiting", "state", "usage"))
    r.call("kill", Kill(pid, "KILL"), on=2)
    r.call("wait", Wait(pid), on=2)
    r.call("strace", Strace(pid, children=True, steps=True), on=2, varying=("records", "steps", "missing"))
    r.cut(2)
    _session(r)


def _session(r: Recorder) -> None:
    r.note("a session")
    made: dict[str, Any] = r.hello(Hello(ABI_MAJOR, ABI_MINOR, lease_s=60.0, name="golden"), on=3)
    fd = r.call("open", Open(tokens=text("session")), on=3, call_id=1)["fd"]
    r.call("keep_alive", NoArgs(), on=3, call_id=2)
    r.call("forward", Forward(fd, text("!"), top_k=1), on=3, call_id=3, ack=2)
    r.note("it is cut, and goes on: what it has not got comes again, and what came meanwhile")
    asleep = r.start("sleep", Sleep(0.5), on=3, call_id=4)
    r.call("ping", NoArgs(), on=3, call_id=5)
    r.cut(3)
    again = Hello(ABI_MAJOR, ABI_MINOR, pid=made["pid"], resume=SECRET, received=3)
    r.hello(again, on=4)
    r.take(asleep, on=4)
    r.call("stat", Stat(fd=fd), on=4, call_id=6, ack=5)
    r.note("another one's token, and answers that are not kept")
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, pid=made["pid"], resume="x" * 32), on=5)
    r.closed(5)
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, pid=made["pid"], resume=SECRET, received=1), on=6)
    r.closed(6)
    r.note("a call that was seen ends the connection, not the session")
    r.start("ping", NoArgs(), on=4, call_id=6)
    r.take(0, on=4)
    r.closed(4)
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, pid=made["pid"], resume=SECRET, received=6), on=7)
    r.note("it takes itself over")
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, pid=made["pid"], resume=SECRET, received=6), on=8)
    r.take(0, on=7)
    r.closed(7)
    r.note("it ends")
    r.call("exit", Exit(0, json.dumps("done")), on=8, call_id=7, ack=6)
    r.take(0, on=8)
    r.closed(8)
