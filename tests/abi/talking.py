"""What a client of 1.3 says in its transcript beside the rest: programs with limits and input, channels, tools, the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_symphony.abi.calls import (
    CallTool,
    ChannelArgs,
    ChannelName,
    ChannelOpen,
    Channels,
    FdArgs,
    Feed,
    Getrlimit,
    Getrusage,
    Hello,
    Install,
    Kill,
    NoArgs,
    Open,
    Poll,
    ProgramArgs,
    Programs,
    Ps,
    Recv,
    Request,
    Respond,
    Send,
    Setrlimit,
    Spawn,
    Wait,
)
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR, ResourceLimits, SendFd, pack_tokens

if TYPE_CHECKING:
    from tests.abi.record import Recorder

FOREVER = 3600.0
CREAT, EXCL = 2, 4
READS = """
import sys

async def main(n: int = 1) -> str:
    return sys.stdin.read() * n
"""
STAYS = "from vllm_symphony import lip\n\nasync def main():\n    await lip.sleep(3600)\n"
USED = ("wall_s", "used", "usage", "children", "threads", "waiting", "num_threads", "num_files", "num_pages")


def talking(r: Recorder) -> None:
    """Programs as processes, on a connection of its own."""
    r.hello(Hello(ABI_MAJOR, ABI_MINOR, "client"), on=30)
    _limits(r, 30)
    _input(r, 30)
    _channels(r, 30)
    _lines(r, 30)
    _requests(r, 30)
    _tools(r, 30)
    _registry(r, 30)
    r.cut(30)


def _limits(r: Recorder, on: int) -> None:
    r.note("limits, usage, STOP and CONT")
    limits = ResourceLimits(tokens=1000, wall_s=60.0, memory_bytes=256 << 20, processes=2, depth=0)
    pid = r.call("spawn", Spawn(STAYS, limits=limits), on)["pid"]
    r.call("getrlimit", Getrlimit(pid), on, varying=USED)
    r.call("setrlimit", Setrlimit(ResourceLimits(tokens=500), pid), on)
    r.call("setrlimit", Setrlimit(ResourceLimits(tokens=-5), pid), on)
    r.call("getrlimit", Getrlimit(pid), on, varying=USED)
    r.call("getrlimit", Getrlimit(principal="ann"), on, varying=USED)
    r.call("getrlimit", Getrlimit(4711), on)
    r.call("getrusage", Getrusage(pid), on, varying=USED)
    r.call("kill", Kill(pid, "STOP"), on)
    r.call("ps", Ps(pid), on, varying=USED)
    r.call("kill", Kill(pid, "CONT"), on)
    r.call("kill", Kill(pid, "HUP"), on)
    r.call("kill", Kill(pid, "KILL"), on)
    r.call("wait", Wait(pid, FOREVER), on, varying=USED)
    r.call("getrlimit", Getrlimit(), on, varying=(*USED, "limits"))
    r.call("getrusage", Getrusage(), on, varying=USED)


def _input(r: Recorder, on: int) -> None:
    r.note("standard input, and open files that a child gets")
    fd = r.call("open", Open(tokens=pack_tokens([1, 2])), on)["fd"]
    pid = r.call("spawn", Spawn(READS, args='{"n": 2}', stdin=True, fds={"book": fd}, tools=()), on)["pid"]
    r.call("feed", Feed(pid, b"once "), on)
    r.call("feed", Feed(pid, b"more ", eof=True), on)
    r.call("wait", Wait(pid, FOREVER), on, varying=USED)
    r.call("feed", Feed(pid, b"late"), on)
    r.call("spawn", Spawn(READS, fds={"book": 4711}), on)
    r.call("inherited", NoArgs(), on)
    r.call("close", FdArgs(fd), on)


def _channels(r: Recorder, on: int) -> None:
    r.note("channels")
    ch = r.call("channel_open", ChannelOpen("jobs", CREAT | EXCL, capacity=2), on)["ch"]
    r.call("channel_open", ChannelOpen("jobs", CREAT | EXCL), on)
    r.call("channel_open", ChannelOpen("nothing"), on)
    r.call("channel_open", ChannelOpen("jobs", kind="heap"), on)
    fd = r.call("open", Open(tokens=pack_tokens([1, 2, 3])), on)["fd"]
    r.call("send", Send(ch, b"one", (SendFd(fd, writable=True),)), on)
    r.call("send", Send(ch, b"two"), on)
    r.call("send", Send(ch, b"three", wait=False), on, varying=("retry_after_s",))
    r.call("send", Send(ch, b"three", timeout_s=0.01), on)
    r.call("poll", Poll(receive=(ch,), send=(ch,)), on)
    r.call("recv", Recv(ch), on, varying=("pid",))
    r.call("recv", Recv(ch), on, varying=("pid",))
    r.call("recv", Recv(ch, wait=False), on, varying=("retry_after_s",))
    r.call("recv", Recv(ch, timeout_s=0.01), on)
    r.call("poll", Poll(receive=(ch,), timeout_s=0.01), on)
    r.call("channels", Channels("ann/"), on)
    r.call("channel_unlink", ChannelName("jobs"), on)
    r.call("channel_unlink", ChannelName("jobs"), on)
    r.call("channel_close", ChannelArgs(ch), on)
    r.call("recv", Recv(ch), on)
    r.call("close", FdArgs(fd), on)


def _lines(r: Recorder, on: int) -> None:
    r.note("who waits is answered when it can be; a topic has a queue for each")
    ch = r.call("channel_open", ChannelOpen(), on)["ch"]
    r.start("recv", Recv(ch), on)
    r.call("send", Send(ch, b"now"), on, varying=("pid",))  # what waited is answered first
    topic = ChannelOpen("news", CREAT, access="r", kind="topic", capacity=1, overflow="drop_oldest")
    readers = [r.call("channel_open", topic, on)["ch"] for _ in range(2)]
    out = r.call("channel_open", ChannelOpen("news", access="w"), on)["ch"]
    r.call("send", Send(out, b"first"), on)
    r.call("send", Send(out, b"second"), on)
    for reader in readers:
        r.call("recv", Recv(reader), on, varying=("pid",))
    r.call("send", Send(readers[0], b"not mine to send"), on)
    for one in (ch, *readers, out):
        r.call("channel_close", ChannelArgs(one), on)
    r.call("channel_unlink", ChannelName("news"), on)


def _requests(r: Recorder, on: int) -> None:
    r.note("requests")
    ch = r.call("channel_open", ChannelOpen(), on)["ch"]
    r.start("request", Request(ch, b"what?", timeout_s=FOREVER), on)
    token = r.call("recv", Recv(ch), on, varying=("pid",))["message"]["token"]
    r.call("respond", Respond(token, b"that"), on, varying=("pid",))
    r.call("respond", Respond(token, b"again"), on)
    r.call("request", Request(ch, b"nobody?", timeout_s=0.01), on)
    r.call("channel_close", ChannelArgs(ch), on)


def _tools(r: Recorder, on: int) -> None:
    r.note("tools, where there are none")
    r.call("tools", NoArgs(), on)
    r.call("call_tool", CallTool("web.get", '{"url": "http://x"}'), on)


def _registry(r: Recorder, on: int) -> None:
    r.note("the registry")
    wanted = Install("reads", "1.0", READS, schema='{"type": "object"}', description="Reads.")
    r.call("install", wanted, on)
    r.call("install", wanted, on)
    r.call("install", Install("reads", "1.0", STAYS), on)
    r.call("install", Install("reads", "one", READS), on)
    r.call("install", Install("bob/reads", "1.0", READS), on)
    r.call("programs", Programs("ann/*"), on)
    r.call("program", ProgramArgs("reads"), on)
    pid = r.call("spawn", Spawn(program="reads@1.0", limits=ResourceLimits(tokens=5)), on)["pid"]
    r.call("wait", Wait(pid, FOREVER), on, varying=USED)
    r.call("uninstall", ProgramArgs("reads@1.0"), on)
    r.call("uninstall", ProgramArgs("reads@1.0"), on)
    r.call("spawn", Spawn(program="reads"), on)
