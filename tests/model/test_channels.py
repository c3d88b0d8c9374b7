"""Channels against plain lists: opens, sends with files, receives, polls, closes, deaths and time in any order.

The model of a queue is a list of messages and two lines of waiting calls; of a topic, a list for each subscriber. Each message is
known by its text, so that none is lost or doubled, and each carries a file with its own number, which must be the one that arrives.
Three principals share the channels; at the end nothing is left.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.counts import count
from tests.unit.kernel.world import World
from vllm_symphony.abi.types import Credentials, Message, OpenFlags, SendFd
from vllm_symphony.errors import SymphonyError

PRINCIPALS = [Credentials(name, scopes=("run",)) for name in ("ann", "bob", "eve")]
CREAT = int(OpenFlags.CREAT)
KINDS = [("queue", "block"), ("topic", "block"), ("topic", "drop_oldest"), ("topic", "drop_new")]
pick = st.integers(0, 1 << 20)


@dataclass
class Sent:
    """A message. `file`: number of the one that goes along, or None; `asker`: the call that waits for an answer."""

    text: bytes
    sender: str
    file: int | None
    asker: "Waiting | None" = None
    missing: int = 0


@dataclass(eq=False)
class Waiting:
    """A call that has no answer: of process `pid`, through handle `ch`."""

    call: int
    pid: int
    ch: int
    message: Sent | None = None  # of a send or a request
    until_s: float | None = None
    is_request: bool = False
    received_by: tuple[int, int] | None = None  # process, handle


@dataclass(eq=False)
class Inbox:
    """What waits for one subscriber, or for all receivers of a queue."""

    messages: list[Sent] = field(default_factory=list)
    receivers: list[Waiting] = field(default_factory=list)
    missing: int = 0


@dataclass(eq=False)
class Post:
    """A channel."""

    name: str
    kind: str
    overflow: str
    capacity: int
    boxes: dict[Any, Inbox] = field(default_factory=dict)  # by handle; a queue's under None
    senders: list[Waiting] = field(default_factory=list)
    is_named: bool = True


@dataclass(eq=False)
class Handle:
    pid: int
    ch: int
    post: Post
    access: str


class Posts(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.w = World()
        self.pids = [self.w.kernel.connect(cred, "client", 0) for cred in PRINCIPALS for _ in range(2)]
        self.who = {pid: PRINCIPALS[n // 2].principal for n, pid in enumerate(self.pids)}
        for pid in self.pids:
            self.w("umask", by=pid, mask=0)
        self.posts: dict[str, Post] = {}
        self.handles: list[Handle] = []
        self.tokens: dict[int, Waiting] = {}
        self.num = 0
        self.fds: list[tuple[int, int, int]] = []  # process, fd, number

    # ---- what the model believes

    def boxes(self, handle: Handle) -> Inbox:
        return handle.post.boxes[None if handle.post.kind == "queue" else (handle.pid, handle.ch)]

    def has(self, post: Post, right: str) -> bool:
        return post.is_named or any(right in h.access for h in self.handles if h.post is post)

    def room(self, post: Post) -> bool:
        return post.overflow != "block" or all(len(box.messages) < post.capacity for box in post.boxes.values())

    def put(self, post: Post, sent: Sent) -> int:
        took = 0
        for key in post.boxes:
            box = post.boxes[key]
            copy = Sent(sent.text, sent.sender, sent.file, sent.asker, box.missing)
            if len(box.messages) >= post.capacity and post.overflow == "drop_new":
                box.missing += 1
                continue
            if len(box.messages) >= post.capacity:
                lost = box.messages.pop(0)
                if box.messages:
                    box.messages[0].missing += lost.missing + 1
                else:
                    copy.missing += lost.missing + 1
            box.messages.append(copy)
            box.missing = 0
            took += 1
        return took

    def serve(self, post: Post) -> None:
        """Messages to receivers, room to senders, each to the first."""
        while True:
            for box in post.boxes.values():
                while box.messages and box.receivers:
                    wait = box.receivers.pop(0)
                    self.take(wait.call, wait.pid, wait.ch, box.messages.pop(0))
            if not post.senders or not self.room(post):
                return
            first = post.senders.pop(0)
            assert first.message is not None
            took = self.put(post, first.message)
            if not first.is_request:
                assert self.w.result(first.call, first.pid).num_receivers == took

    def take(self, call: int, pid: int, ch: int, sent: Sent) -> None:
        """That call has received this message, and its file."""
        got: Message = self.w.result(call, pid).message
        assert (got.data, got.principal, got.missing) == (sent.text, sent.sender, sent.missing)
        assert (got.token > 0) == (sent.asker is not None)
        self.arrived(pid, got, sent.file)
        if sent.asker is not None:
            sent.asker.received_by = pid, ch
            self.tokens[got.token] = sent.asker

    def arrived(self, pid: int, got: Message, number: int | None) -> None:
        assert len(got.fds) == (number is not None)
        if number is not None:
            assert self.w.tokens(got.fds[0], pid) == [number % 100, number // 100]
            self.fds.append((pid, got.fds[0], number))

    def broken(self, wait: Waiting) -> None:
        assert self.w.replies[wait.pid, wait.call].reason == "EPIPE"

    def settle(self, post: Post) -> None:
        """Somebody went, or the name did."""
        if not self.has(post, "r"):
            for box in post.boxes.values():
                for sent in box.messages:
                    if sent.asker is not None:
                        self.broken(sent.asker)
                box.messages.clear()
            for wait in post.senders:
                self.broken(wait)
            post.senders.clear()
        if not self.has(post, "w"):
            for box in post.boxes.values():
                for wait in box.receivers:
                    self.broken(wait)
                box.receivers.clear()
        self.serve(post)

    def forget(self, handle: Handle, reason: str | None) -> None:
        """The handle is closed (`reason` of its calls) or its process has ended (None: nobody hears)."""
        post = handle.post
        for wait in [w for w in self.waiting() if (w.pid, w.ch) == (handle.pid, handle.ch)]:
            self.drop(wait)
            if reason is not None:
                assert self.w.replies[wait.pid, wait.call].reason == reason
        self.handles.remove(handle)
        for token, asker in list(self.tokens.items()):
            if asker.received_by == (handle.pid, handle.ch):
                del self.tokens[token]
                if (asker.pid, asker.call) in self.w.replies:
                    self.broken(asker)
        post.boxes.pop((handle.pid, handle.ch), None)
        self.settle(post)

    def waiting(self) -> list[Waiting]:
        posts = {id(h.post): h.post for h in self.handles} | {id(p): p for p in self.posts.values()}
        found = []
        for post in posts.values():
            found += post.senders
            for box in post.boxes.values():
                found += box.receivers + [s.asker for s in box.messages if s.asker is not None]
        return list(dict.fromkeys([*found, *self.tokens.values()]))

    def drop(self, wait: Waiting) -> None:
        """The call gave up: it is nowhere any more."""
        for token in [token for token, asker in self.tokens.items() if asker is wait]:
            del self.tokens[token]
        for post in {id(p): p for p in [*self.posts.values(), *(h.post for h in self.handles)]}.values():
            if wait in post.senders:
                post.senders.remove(wait)
            for box in post.boxes.values():
                box.receivers = [r for r in box.receivers if r is not wait]
                box.messages = [s for s in box.messages if s.asker is not wait]

    # ---- what happens

    @initialize(kind=st.sampled_from(KINDS), capacity=st.integers(1, 3))
    def begin(self, kind: tuple[str, str], capacity: int) -> None:
        """One channel that several have open from the start, so that there is traffic."""
        for n, access in enumerate(("rw", "r", "w", "rw")):
            self.open(n, "a", kind, capacity, access)

    @rule(acts=st.lists(st.tuples(st.sampled_from("ssrrrqqa"), pick, st.booleans()), min_size=3, max_size=8))
    def traffic(self, acts: list[tuple[str, int, bool]]) -> None:
        """Some calls in a row: sends, receives, requests and answers."""
        for act, n, flag in acts:
            if act in "sq":
                self.send(n, flag, True, act == "q", None)
            elif act == "r":
                self.recv(n, flag, None)
            elif self.tokens:
                self.respond(n, False, flag)

    @rule(n=pick, name=st.sampled_from(["a", "b", ""]), kind=st.sampled_from(KINDS), capacity=st.integers(1, 3),
          access=st.sampled_from(["r", "w", "rw"]))  # fmt: skip
    def open(self, n: int, name: str, kind: tuple[str, str], capacity: int, access: str) -> None:
        pid = self.pids[n % len(self.pids)]
        full = f"ann/{name}" if name else ""
        post = self.posts.get(full)
        call = self.w.start("channel_open", by=pid, name=full, flags=CREAT, access=access, mode=0o666, kind=kind[0],
                            overflow=kind[1], capacity=capacity)  # fmt: skip
        if post is None:
            if name and self.who[pid] != "ann":
                assert self.w.replies[pid, call].reason == "EACCES"
                return
            post = Post(full, *kind, capacity, is_named=bool(name))
            if kind[0] == "queue":
                post.boxes[None] = Inbox()
            if name:
                self.posts[full] = post
        handle = Handle(pid, self.w.result(call, pid).ch, post, access)
        self.handles.append(handle)
        if post.kind == "topic" and "r" in access:
            post.boxes[pid, handle.ch] = Inbox()

    def choose(self, n: int, right: str) -> Handle | None:
        able = [h for h in self.handles if right in h.access]
        return able[n % len(able)] if able else None

    def attach(self, pid: int, with_file: bool) -> tuple[tuple[SendFd, ...], int | None]:
        """A file of its own for the next message; its sender keeps it not."""
        self.num += 1
        if not with_file:
            return (), None
        return (SendFd(self.w.file([self.num % 100, self.num // 100], by=pid)),), self.num

    @rule(n=pick, with_file=st.booleans(), wait=st.booleans(), asks=st.booleans(), limit=st.sampled_from([None, 1.0, 3.0]))
    def send(self, n: int, with_file: bool, wait: bool, asks: bool, limit: float | None) -> None:
        handle = self.choose(n, "w")
        if handle is None:
            return
        post, pid = handle.post, handle.pid
        fds, number = self.attach(pid, with_file)
        sent = Sent(f"{self.num}".encode(), self.who[pid], number)
        more: dict[str, Any] = {} if asks else {"wait": wait}
        takes = not post.senders and self.room(post)
        call = self.w.start("request" if asks else "send", by=pid, ch=handle.ch, data=sent.text, fds=fds, timeout_s=limit, **more)
        for fd in fds:
            self.w("close", by=pid, fd=fd.fd)
        until_s = None if limit is None else self.w.now_ns / 1e9 + limit
        waiting = Waiting(call, pid, handle.ch, sent, until_s, asks)
        if (asks and post.kind == "topic") or not self.has(post, "r"):
            self.broken(waiting)
        elif asks:
            sent.asker = waiting
            post.senders.append(waiting)
            self.serve(post)
        elif takes:
            assert self.w.result(call, pid).num_receivers == self.put(post, sent)
            self.serve(post)
        elif wait:
            assert self.w.is_open(call, pid)
            post.senders.append(waiting)
        else:
            assert self.w.replies[pid, call].reason == "EAGAIN"

    @rule(n=pick, wait=st.booleans(), limit=st.sampled_from([None, 1.0, 3.0]))
    def recv(self, n: int, wait: bool, limit: float | None) -> None:
        handle = self.choose(n, "r")
        if handle is None:
            return
        box = self.boxes(handle)
        call = self.w.start("recv", by=handle.pid, ch=handle.ch, wait=wait, timeout_s=limit)
        if box.messages:
            self.take(call, handle.pid, handle.ch, box.messages.pop(0))
            self.serve(handle.post)
        elif not self.has(handle.post, "w"):
            assert self.w.replies[handle.pid, call].reason == "EPIPE"
        elif wait:
            until_s = None if limit is None else self.w.now_ns / 1e9 + limit
            box.receivers.append(Waiting(call, handle.pid, handle.ch, None, until_s))
        else:
            assert self.w.replies[handle.pid, call].reason == "EAGAIN"

    @precondition(lambda self: self.tokens)
    @rule(n=pick, stranger=st.booleans(), with_file=st.booleans())
    def respond(self, n: int, stranger: bool, with_file: bool) -> None:
        token = list(self.tokens)[n % len(self.tokens)]
        asker = self.tokens[token]
        assert asker.received_by is not None
        pid = next(p for p in self.pids if p != asker.received_by[0]) if stranger else asker.received_by[0]
        fds, number = self.attach(pid, with_file)
        data = f"answer {self.num}".encode()
        call = self.w.start("respond", by=pid, token=token, data=data, fds=fds)
        for fd in fds:
            self.w("close", by=pid, fd=fd.fd)
        if stranger:
            assert self.w.replies[pid, call].reason == "EPIPE"
            return
        self.w.result(call, pid)
        got = self.w.result(asker.call, asker.pid).message
        assert (got.data, got.principal) == (data, self.who[pid])
        self.arrived(asker.pid, got, number)
        del self.tokens[token]

    @precondition(lambda self: self.handles)
    @rule(n=pick, m=pick)
    def poll(self, n: int, m: int) -> None:
        receiver, sender = self.choose(n, "r"), self.choose(m, "w")
        receive = () if receiver is None else (receiver.ch,)
        send = () if sender is None or (receiver is not None and sender.pid != receiver.pid) else (sender.ch,)
        by = receiver.pid if receiver is not None else sender.pid if sender is not None else 0
        found = self.w("poll", by=by, receive=receive, send=send, timeout_s=0.0)
        if receiver is not None:
            assert bool(found.receive) == (bool(self.boxes(receiver).messages) or not self.has(receiver.post, "w"))
        if send and sender is not None:
            is_ready = (not sender.post.senders and self.room(sender.post)) or not self.has(sender.post, "r")
            assert bool(found.send) == is_ready

    @precondition(lambda self: self.waiting())
    @rule(n=pick)
    def cancel(self, n: int) -> None:
        wait = self.waiting()[n % len(self.waiting())]
        self.w("cancel", by=wait.pid, target=wait.call)
        assert self.w.replies[wait.pid, wait.call].reason == "EINTR"
        self.drop(wait)
        self.serve_all()

    @rule(seconds=st.sampled_from([1.0, 2.0]))
    def time(self, seconds: float) -> None:
        self.w.pass_time(seconds)
        late = [w for w in self.waiting() if w.until_s is not None and w.until_s <= self.w.now_ns / 1e9]
        for wait in sorted(late, key=lambda w: (w.until_s or 0, w.call)):
            if wait not in self.waiting():
                continue
            reply = self.w.replies[wait.pid, wait.call]
            assert isinstance(reply, SymphonyError) and reply.reason == "ETIMEDOUT"
            self.drop(wait)
        self.serve_all()

    def serve_all(self) -> None:
        for post in {id(p): p for p in [*self.posts.values(), *(h.post for h in self.handles)]}.values():
            self.serve(post)

    @precondition(lambda self: len(self.handles) > 2)
    @rule(n=pick)
    def close(self, n: int) -> None:
        handle = self.handles[n % len(self.handles)]
        self.w("channel_close", by=handle.pid, ch=handle.ch)
        self.forget(handle, "EINTR")

    @precondition(lambda self: self.posts)
    @rule(n=pick)
    def unlink(self, n: int) -> None:
        post = self.posts.pop(list(self.posts)[n % len(self.posts)])
        self.w("channel_unlink", by=self.pids[0], name=post.name)
        post.is_named = False
        self.settle(post)

    @precondition(lambda self: self.fds)
    @rule(n=pick)
    def close_file(self, n: int) -> None:
        pid, fd, number = self.fds.pop(n % len(self.fds))
        assert self.w.tokens(fd, pid) == [number % 100, number // 100]
        self.w("close", by=pid, fd=fd)

    @rule(n=pick)
    def die(self, n: int) -> None:
        """A process is gone, and another one of the same principal comes."""
        old = self.pids[n % len(self.pids)]
        who = next(cred for cred in PRINCIPALS if cred.principal == self.who[old])
        for wait in [w for w in self.waiting() if w.pid == old]:
            self.drop(wait)
        self.w.disconnect(old)
        for handle in [h for h in self.handles if h.pid == old]:
            self.forget(handle, None)
        self.serve_all()
        self.fds = [entry for entry in self.fds if entry[0] != old]
        new = self.w.kernel.connect(who, "client", self.w.now_ns)
        self.w("umask", by=new, mask=0)
        self.pids[self.pids.index(old)] = new
        self.who[new] = who.principal

    # ---- what always holds

    @invariant()
    def the_kernel_says_the_same(self) -> None:
        self.w.check()
        posts = {id(p): p for p in [*self.posts.values(), *(h.post for h in self.handles)]}.values()
        waiting = sum(len(box.messages) for post in posts for box in post.boxes.values())
        counters = self.w.kernel.counters()
        assert counters["messages"] == waiting
        assert counters["handles"] == len(self.handles)
        assert counters["channels"] == len(posts)
        held = {s.file for p in posts for b in p.boxes.values() for s in b.messages}
        held |= {w.message.file for p in posts for w in p.senders if w.message is not None}
        held |= {number for _, _, number in self.fds}
        assert counters["files"] == len(held - {None}), "a file that nobody has, or one that somebody has not"

    @invariant()
    def who_waits_has_no_answer(self) -> None:
        assert all(self.w.is_open(wait.call, wait.pid) for wait in self.waiting())

    def teardown(self) -> None:
        for post in list(self.posts.values()):
            self.w("channel_unlink", by=self.pids[0], name=post.name)
        for pid in self.pids:
            self.w.disconnect(pid)
        self.w.disconnect()
        self.w.assert_empty()
        assert self.w.kernel.counters()["channels"] == 0


TestChannels = Posts.TestCase
TestChannels.settings = settings(max_examples=count(60, 2000), stateful_step_count=count(40, 80), deadline=None)
