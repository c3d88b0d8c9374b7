"""What is said in the transcripts (tests/abi/record.py): `plain` by all, `session` by one of 1.1, `keeping` by one of 1.2."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.abi.transcript import SECRET
from vllm_symphony.abi.calls import (
    Advise,
    Append,
    Attach,
    Cancel,
    Chattr,
    Chmod,
    Chown,
    Concat,
    Detokenize,
    Emit,
    Exit,
    Export,
    Extract,
    FdArgs,
    FileArgs,
    Find,
    Flock,
    Forward,
    ForwardMany,
    Fsck,
    Gc,
    Generate,
    Getquota,
    Hello,
    Import,
    Kill,
    Link,
    List,
    Listdir,
    Logits,
    Mkdir,
    NoArgs,
    Open,
    ParseTools,
    PathArgs,
    PidArgs,
    Pin,
    Ps,
    Random,
    Read,
    Rename,
    RenderChat,
    Sample,
    Setquota,
    Setxattr,
    Sleep,
    Spawn,
    Stat,
    Strace,
    Sync,
    ThreadEnd,
    ThreadStart,
    Tokenize,
    Truncate,
    Umask,
    Wait,
    Watch,
    Xattr,
)  # fmt: skip
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, Grammar, Predicate, Sampler, Span, pack_tokens

if TYPE_CHECKING:
    from tests.abi.record import Recorder

FOREVER = 3600.0
USED = (
    "device_pages_free", "host_bytes_used", "disk_bytes_used", "disk_bytes_free", "files", "used_device_pages", "used_host_bytes",
    "used_disk_bytes", "used_files", "used_rows", "used_pinned_pages",
)  # fmt: skip
RESIDENCY = ("device_pages", "host_pages", "disk_pages", "charge", "frontier", "num_pages")  # what is where when somebody looks
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
    r.call("mkdir", Mkdir("/golden"))
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


def keeping(r: Recorder) -> None:
    """The file system of 1.2, on a connection of its own."""
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, "client"), on=20)
    _directories(r, 20)
    _rights(r, 20)
    _editing(r, 20)
    _locks(r, 20)
    _tiers(r, 20)
    _looking(r, 20)
    _packs(r, 20)
    r.cut(20)


def _directories(r: Recorder, on: int) -> None:
    r.note("directories")
    r.call("umask", Umask(0o027), on)
    r.call("umask", Umask(), on)
    r.call("mkdir", Mkdir("/kb/drafts", mode=0o2775, parents=True), on)
    fd = r.call("open", Open(path="/kb/a", tokens=text("a fog horn"), flags=3, mode=0o666), on)["fd"]
    r.call("link", Link(fd, "/kb/drafts/b"), on)
    other = r.call("open", Open(tokens=text("other")), on)["fd"]
    r.call("link", Link(other, "/kb/drafts/b"), on)
    r.call("link", Link(other, "/kb/drafts/b", replace=True), on)
    r.call("listdir", Listdir("/kb", recursive=True), on, varying=RESIDENCY)
    r.call("rename", Rename("/kb/drafts", "/kb/old"), on)
    r.call("stat", Stat(path="/kb/old"), on, varying=RESIDENCY)
    r.call("rmdir", PathArgs("/kb/old"), on)
    r.call("unlink", PathArgs("/kb/old"), on)
    r.call("mkdir", Mkdir("/kb/a/b"), on)
    r.call("mkdir", Mkdir("/kb"), on)
    r.call("mkdir", Mkdir("/none/b"), on)
    r.call("mkdir", Mkdir("/proc/b"), on)
    r.call("open", Open(path="/kb"), on)
    r.call("read", Read(path="/proc/self/status"), on, varying=("text",))
    r.call("unlink", PathArgs("/kb/old/b"), on)
    r.call("rmdir", PathArgs("/kb/old"), on)


def _rights(r: Recorder, on: int) -> None:
    r.note("rights, attributes, how it is kept")
    r.call("chmod", Chmod(0o600, path="/kb/a"), on)
    r.call("chmod", Chmod(0o10000, path="/kb/a"), on)
    r.call("chown", Chown(path="/kb/a", group="ann"), on)
    r.call("chown", Chown(path="/kb/a", owner="bob"), on)
    r.call("setxattr", Setxattr("topic", "fog", path="/kb/a", create=True), on)
    r.call("setxattr", Setxattr("topic", "horn", path="/kb/a", create=True), on)
    r.call("setxattr", Setxattr("none", "x", path="/kb/a", replace=True), on)
    r.call("getxattr", Xattr("topic", path="/kb/a"), on)
    r.call("listxattr", FileArgs(path="/kb/a"), on)
    r.call("removexattr", Xattr("topic", path="/kb/a"), on)
    r.call("getxattr", Xattr("topic", path="/kb/a"), on)
    r.call("chattr", Chattr(path="/kb", durable="pages", ttl_s=3600.0), on)
    r.call("chattr", Chattr(path="/kb/a", expires_s=3600.0), on)
    r.call("stat", Stat(path="/kb/a"), on, varying=RESIDENCY)


def _editing(r: Recorder, on: int) -> None:
    r.note("editing, and what lineage an open needs")
    fd = r.call("open", Open(tokens=text("the lighthouse keeper lights the lamp")), on)["fd"]
    r.call("forward", Forward(fd, text(" at dusk"), top_k=1), on)
    part = r.call("extract", Extract(fd, (Span(0, 4), Span(14, 21))), on)["fd"]
    r.call("read", Read(part), on)
    compact = r.call("extract", Extract(fd, (Span(4, 14),), positions="compact"), on)["fd"]
    r.call("read", Read(compact), on)
    r.call("stat", Stat(compact), on, varying=RESIDENCY)
    r.call("extract", Extract(fd, (Span(4, 2),)), on)
    r.call("concat", Concat((fd, compact)), on)
    both = r.call("concat", Concat((fd, compact), mode="rotate"), on)["fd"]
    r.call("forward", Forward(both, text("!"), top_k=1), on)
    r.call("link", Link(both, "/kb/both"), on)
    r.call("open", Open(path="/kb/both", require="exact"), on)


def _locks(r: Recorder, on: int) -> None:
    r.note("locks")
    mine = r.call("open", Open(path="/kb/a", flags=1), on)["fd"]
    other = r.call("open", Open(path="/kb/a", flags=1), on)["fd"]
    r.call("flock", Flock(mine, lease_s=600.0), on)
    r.call("flock", Flock(other, "shared", wait=False), on)
    r.call("flock", Flock(other, "shared", timeout_s=0.01), on)
    r.call("append", Append(other, text("x")), on, varying=("retry_after_s", "message"))
    waiting = r.start("flock", Flock(other, "shared"), on)
    r.call("flock", Flock(mine, "unlock"), on)
    r.take(waiting, on)
    r.call("flock", Flock(other, "unlock"), on)
    r.call("flock", Flock(mine, lease_s=0.01), on)
    r.call("sleep", Sleep(0.05), on)
    r.call("append", Append(mine, text("y")), on)
    r.call("append", Append(mine, text("z")), on)
    for fd in (mine, other):
        r.call("close", FdArgs(fd), on)


def _tiers(r: Recorder, on: int) -> None:
    r.note("where pages are, and what that costs")
    r.call("advise", Advise(path="/kb/both", advice="dontneed", wait=True, timeout_s=60.0), on)
    r.call("advise", Advise(path="/kb/both", wait=True), on)
    r.call("pin", Pin(path="/kb/both"), on)
    r.call("pin", Pin(path="/kb/both", pinned=False), on)
    r.call("sync", Sync(path="/kb/both", timeout_s=60.0), on, varying=("num_bytes",))
    r.call("sync", Sync(), on, varying=("num_files", "num_bytes"))
    r.call("statfs", NoArgs(), on, varying=USED)
    r.call("du", FileArgs(path="/kb"), on, varying=(*RESIDENCY, "num_pages"))
    r.call("setquota", Setquota("bob", files=7, device_pages=100), on)
    r.call("getquota", Getquota("bob"), on)
    r.call("getquota", Getquota(), on, varying=USED)


def _looking(r: Recorder, on: int) -> None:
    r.note("finding, and being told")
    r.call("find", Find("/kb", name="*"), on, varying=RESIDENCY)
    r.call("find", Find("/kb", text="fog"), on, varying=RESIDENCY)
    r.call("find", Find("/kb", min_length=1, max_length=9, kind="file", fidelity="exact", xattr={"none": "*"}), on)
    r.call("find", Find(limit=0), on)
    watching = r.start("watch", Watch("/kb"), on)
    r.call("mkdir", Mkdir("/kb/new"), on)
    r.call("rename", Rename("/kb/new", "/kb/newer"), on)
    r.call("rmdir", PathArgs("/kb/newer"), on)
    r.call("cancel", Cancel(watching), on)
    r.call("watch", Watch("/none"), on)


def _packs(r: Recorder, on: int) -> None:
    r.note("gc, fsck, packs")
    r.call("gc", Gc(dry_run=True), on, varying=("removed", "num_bytes"))
    r.call("fsck", Fsck("/kb"), on, varying=("num_pages",))
    r.call("export", Export("/kb/both"), on, varying=("spool", "num_bytes"))
    r.call("import", Import("/kb/again", "none"), on)
    for path in ("/kb/both", "/kb/a"):
        r.call("unlink", PathArgs(path), on)
    r.call("rmdir", PathArgs("/kb"), on)


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
    pid = r.call("spawn", Spawn(PROGRAM), on=2)["pid"]
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
