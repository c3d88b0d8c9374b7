"""A process that ends in any state of any call leaves nothing."""

import pytest

from tests.unit.kernel.world import ME, World
from vllm_symphony.abi.calls import Forward
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import OpenFlags, Pid, ResourceLimits, SendFd, Span, pack_tokens

ENDS = ("killed", "exits", "vanishes before it reports", "loses the device", "vanishes and its device work succeeds")
TOKENS = pack_tokens([1])
EMPTY, FULL, ASKED = 1, 2, 3  # channels that the process has open


def arguments(op: str, fd: int, pid: int, child: int) -> dict:
    """Good arguments for each call; the ones that wait, do."""
    return {
        "hello": {"abi_major": 1, "abi_minor": 0},
        "cancel": {"target": 1},
        "open": {"tokens": TOKENS},
        "truncate": {"fd": fd, "length": 1},
        "append": {"fd": fd, "tokens": TOKENS},
        "read": {"fd": fd},
        "link": {"fd": fd, "path": "/new"},
        "unlink": {"path": "/old"},
        "rename": {"old": "/old", "new": "/new"},
        "stat": {"fd": fd},
        "mkdir": {"path": "/kb"},
        "rmdir": {"path": "/home"},
        "chmod": {"fd": fd, "mode": 0o600},
        "chown": {"fd": fd, "group": "me"},
        "setxattr": {"fd": fd, "name": "lang", "value": "en"},
        "removexattr": {"fd": fd, "name": "lang"},
        "getxattr": {"fd": fd, "name": "lang"},
        "chattr": {"fd": fd, "expires_s": 60.0},
        "extract": {"fd": fd, "spans": (Span(0, 1),), "timeout_s": 50.0},
        "concat": {"fds": (fd,), "timeout_s": 50.0},
        "flock": {"fd": fd, "timeout_s": 50.0},
        "pin": {"fd": fd},
        "advise": {"fd": fd, "wait": True, "timeout_s": 50.0},
        "sync": {"timeout_s": 50.0},
        "du": {"path": "/"},
        "setquota": {"principal": "me"},
        "setsched": {"level": "process"},
        "setweight": {"principal": "me"},
        "find": {"text": "words", "timeout_s": 50.0},
        "gc": {"timeout_s": 50.0},
        "fsck": {"timeout_s": 50.0},
        "export": {"path": "/old", "timeout_s": 50.0},
        "import": {"spool": "x", "path": "/new", "timeout_s": 50.0},
        "forward": {"fd": fd, "tokens": TOKENS, "timeout_s": 50.0},
        "forward_many": {"items": (Forward(fd, TOKENS, timeout_s=50.0), Forward(fd, TOKENS))},
        "sample": {"fd": fd, "timeout_s": 50.0},
        "logits": {"fd": fd},
        "generate": {"fd": fd, "stream": True, "timeout_s": 50.0},
        "tokenize": {"text": "a"},
        "detokenize": {"tokens": TOKENS},
        "render_chat": {"messages": "[]"},
        "parse_tools": {"text": "a"},
        "install": {"name": "p", "version": "1", "source": "x"},
        "uninstall": {"program": "p@1"},
        "program": {"program": "p@1"},
        "wait": {"pid": child, "timeout_s": 50.0},
        "kill": {"pid": child},
        "feed": {"pid": child},
        "setrlimit": {"limits": ResourceLimits()},
        "sleep": {"seconds": 50.0},
        "channel_open": {"name": "post", "flags": int(OpenFlags.CREAT)},
        "channel_close": {"ch": EMPTY},
        "channel_unlink": {"name": "old"},
        "send": {"ch": FULL, "data": b"x", "fds": (SendFd(fd),), "timeout_s": 50.0},
        "recv": {"ch": EMPTY, "timeout_s": 50.0},
        "request": {"ch": EMPTY, "data": b"x", "fds": (SendFd(fd),), "timeout_s": 50.0},
        "respond": {"token": 1, "fds": (SendFd(fd),)},
        "poll": {"receive": (EMPTY,), "send": (FULL,), "timeout_s": 50.0},
        "call_tool": {"name": "clock", "timeout_s": 50.0},
        "emit": {"value": "1"},
        "exit": {"code": 0},
        "thread_end": {},
        "thread_start": {},
        "attach": {"pid": child},
        "strace": {"pid": child, "follow": True},
        "why": {"pid": child},
        **{name: {"fd": fd} for name in ("close", "dup", "fork", "listxattr")},
    }.get(op, {})


def open_channels(w: World, pid: int, fd: int) -> None:
    """One without messages, one that is full, and in a third a request that the process has of itself and has not answered."""
    for ch in (EMPTY, FULL, ASKED):
        assert w("channel_open", by=pid, capacity=1).ch == ch
    w("send", by=pid, ch=FULL, fds=(SendFd(fd),))
    w.start("request", by=pid, ch=ASKED)
    assert w("recv", by=pid, ch=ASKED).message.token == 1
    w("channel_open", by=pid, name="old", flags=int(OpenFlags.CREAT))


def started(w: World, op: str, kind: str, *, stopped: bool = False) -> int:
    """A process of that kind in the middle of `op`; `stopped`: before it made the call."""
    w.kernel.granted_tools = lambda _: ("*",)
    pid = w.program(tools=("*",)) if kind == "program" else w.kernel.connect(ME, kind, 0)
    child = w("spawn", by=pid, source="x").pid
    w.kernel.started(Pid(child), 1, 0)
    w("open", by=pid, path="/old", flags=int(OpenFlags.CREAT))
    fd = w.file([1, 2], by=pid)
    open_channels(w, pid, fd)
    if stopped:
        w("kill", pid=pid, signal="STOP")
    if op in ("thread_start", "thread_end"):
        w.kernel.call(Pid(pid), 500, 0, op, CALLS[op].args(1), w.now_ns)
        w.drain()
    else:
        w.start(op, by=pid, **arguments(op, fd, pid, child))
    return pid


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("op", CALLS)
def test_a_program_that_ends_in_a_call_leaves_nothing(op: str, how: str) -> None:
    w = World()
    w("open", path="/old", flags=int(OpenFlags.CREAT))
    pid = started(w, op, "program")
    w.check()

    if how == "killed":
        w("kill", pid=pid, signal="KILL")
        w.check()
        w.exited(pid, 137)
    elif how == "exits":
        w.start("exit", by=pid, code=0)
        w.check()
        w.exited(pid, 0)
    elif how == "loses the device":
        w.kernel.device_lost("gone", w.now_ns)
        w.jobs.clear()
        w.drain()
        w.check()
        w.exited(pid, 1)
    else:
        w.exited(pid, 139)
    w.check()

    end_all(w, succeed=how.endswith("succeeds"))
    w.assert_empty()


@pytest.mark.parametrize("how", ["killed", "vanishes", "goes on and vanishes", "goes on, is stopped again and killed"])
@pytest.mark.parametrize("op", CALLS)
def test_a_stopped_program_that_ends_in_a_held_call_leaves_nothing(op: str, how: str) -> None:
    w = World()
    w("open", path="/old", flags=int(OpenFlags.CREAT))
    pid = started(w, op, "program", stopped=True)
    w.check()

    if how.startswith("goes on"):
        w("kill", pid=pid, signal="CONT")
        w.check()
    if "again" in how:
        w("kill", pid=pid, signal="STOP")
    if "killed" in how:
        w("kill", pid=pid, signal="KILL")
        w.check()
    w.exited(pid, 137)
    w.check()

    end_all(w, succeed=False)
    w.assert_empty()


@pytest.mark.parametrize("kind", ["client", "edge"])
@pytest.mark.parametrize("op", CALLS)
def test_a_connection_that_vanishes_in_a_call_leaves_nothing(op: str, kind: str) -> None:
    w = World()
    w("open", path="/old", flags=int(OpenFlags.CREAT))
    pid = started(w, op, kind)

    w.disconnect(pid)
    w.check()

    end_all(w, succeed=False)
    w.assert_empty()


def end_all(w: World, succeed: bool) -> None:
    """The device ends its work, the orphans end, the client goes."""
    while succeed and w.jobs:
        w.step()
    w.reap()
    w.check()
    for process in list(w.kernel.processes.values()):
        if process.kind == "program" and not process.has_ended:
            w.exited(process.pid, 137)
    w.disconnect()
    w.reap()
    w.jobs.clear()  # text of a dead process: the tokenizer's answer comes to nobody
