"""The two sides that play a trace (vllm_symphony/simulate/trace.py) on one engine (benchmarks/players.py).

    Programs   each is a program at the server, started when it arrives: a KV file of its own, tools called by system call
    Client     each is a conversation of an ordinary client: every call sends the whole context, and vLLM's prefix cache finds
               what is still there. It is the best that a client can be: it speaks to the engine's loop itself (no HTTP, no JSON,
               no text), its tools are timers, it takes no time to think. `rtt_s`: what a network adds to each of its calls

Tools take on both sides what the trace says. Texts are new in each play, so no side finds what another left in a cache.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from benchmarks.apart import Failed
from benchmarks.programs import source
from benchmarks.rig import Meter
from benchmarks.session import Session
from vllm_symphony.abi import calls
from vllm_symphony.abi.types import OpenFlags, pack_tokens
from vllm_symphony.simulate.trace import Gap, Script, Trace, Turn, line_of

TIMEOUT_S = 900.0
_PLAYS = itertools.count(1)
_SERIAL = itertools.count(1)


@dataclass(frozen=True)
class Ran:
    """What a program took, from its arrival to its last token; `first_s`: of each call, until its first token."""

    script: Script
    completion_s: float
    first_s: Sequence[float] = ()

    @property
    def waited_s(self) -> float:
        """Without its own tools: what the server is answerable for."""
        return self.completion_s - sum(step.seconds for step in self.script.steps if isinstance(step, Gap))


@dataclass(frozen=True)
class Play:
    """A trace, once. `seconds`: from the first arrival to the last end; `meter`: what the host spent meanwhile."""

    ran: Sequence[Ran]
    seconds: float
    meter: Meter
    arrivals: Sequence[float] = ()  # of all tokens, at a client

    @property
    def completions_s(self) -> list[float]:
        return [r.completion_s for r in self.ran]

    @property
    def mean_s(self) -> float:
        return sum(self.completions_s) / len(self.ran)

    @property
    def waits_s(self) -> list[float]:
        return [r.waited_s for r in self.ran]

    @property
    def waited_s(self) -> float:
        """Mean."""
        return sum(self.waits_s) / len(self.ran)

    @property
    def firsts_s(self) -> list[float]:
        return [s for r in self.ran for s in r.first_s]

    @property
    def first_s(self) -> float:
        """Mean time to a call's first token."""
        return sum(self.firsts_s) / len(self.firsts_s)

    @property
    def programs_s(self) -> float:
        """Programs a second."""
        return len(self.ran) / self.seconds


class Server(Protocol):
    """What both sides play on: an engine in this process (rig.py), or a server (web.py)."""

    @property
    def session(self) -> Session: ...

    @property
    def vocab_size(self) -> int: ...

    def meter(self) -> Meter: ...


class Texts:
    """Of one play: the shared prefixes are the same for all of its programs."""

    def __init__(self, rig: Server, trace: Trace) -> None:
        self._vocab_size = rig.vocab_size
        self._random = random.Random(next(_PLAYS) * 1000 + trace.seed)
        lengths = dict(s.prefix for s in trace.scripts if s.prefix is not None)
        self.prefixes = {name: self.new(length) for name, length in sorted(lengths.items())}

    def new(self, num_tokens: int) -> list[int]:
        return [self._random.randrange(3, self._vocab_size) for _ in range(num_tokens)]


class Programs:
    """Programs at the server."""

    def __init__(self, rig: Server, *, is_timed: bool = False) -> None:
        """`is_timed`: each call says when its first token came."""
        self._rig, self._is_timed = rig, is_timed

    def play(self, trace: Trace) -> Play:
        texts = Texts(self._rig, trace)
        with self._library(texts) as folder:
            return self._play(trace, folder)

    def _play(self, trace: Trace, folder: str) -> Play:
        session, text, vocab_size = self._rig.session, source("replay"), self._rig.vocab_size
        before, began = self._rig.meter(), time.monotonic()
        children = []
        for script in trace.scripts:
            session.pump_until(began + script.at_s)
            prefix = f"{folder}/{script.prefix[0]}" if script.prefix is not None else None
            more: dict[str, Any] = {"prefix": prefix, "is_timed": self._is_timed, "steps": line_of(script)["steps"]}
            children.append(session.spawn(text, script.name, _tools=("*",), vocab_size=vocab_size, **more))
        session.pump(lambda: all(c.exit is not None for c in children), TIMEOUT_S)
        meter, seconds = self._rig.meter() - before, time.monotonic() - began
        session.wait(*children)
        ran = []
        for child, script in zip(children, trace.scripts, strict=True):
            assert child.ended is not None
            ran.append(Ran(script, child.ended - began - script.at_s, child.value()))
        return Play(ran, seconds, meter)

    @contextmanager
    def _library(self, texts: Texts) -> Iterator[str]:
        """The shared prefixes as named files, computed."""
        session, folder = self._rig.session, f"/tmp/prefixes-{next(_SERIAL)}"
        session.call("mkdir", calls.Mkdir(folder))
        for name, tokens in texts.prefixes.items():
            fd = session.call("open", calls.Open(f"{folder}/{name}", pack_tokens(tokens), int(OpenFlags.RDWR | OpenFlags.CREAT))).fd
            session.call("forward", calls.Forward(fd, top_k=1, keep="none"))
            session.call("close", calls.FdArgs(fd))
        yield folder
        for name in texts.prefixes:
            session.call("unlink", calls.PathArgs(f"{folder}/{name}"))
        session.call("rmdir", calls.PathArgs(folder))


@dataclass(frozen=True)
class _Send:
    """Requests that run at the same time: prompts, and how many tokens each decodes."""

    prompts: Sequence[list[int]]
    decode: int


_Body = Generator[_Send | Gap, Any, None]
Hear = Callable[[Sequence[int], bool], None]  # tokens, and whether they are the last ones


@dataclass(eq=False)
class _Conversation:
    """One program as its client sees it. `served`: weighted tokens that its ended calls were given."""

    script: Script
    body: _Body
    num_open: int = 0
    answers: list[list[int]] = field(default_factory=list)
    served: int = 0
    first_s: list[float] = field(default_factory=list)
    ended_at: float | None = None


def _asking(prompt: list[int]) -> _Body:
    """A client that asks once."""
    yield _Send([prompt], 1)


class Client:
    """Conversations of an ordinary client."""

    def __init__(self, rig: Any, *, rtt_s: float = 0.0, by_priority: bool = False) -> None:
        """`rig`: a Rig. `by_priority`: under vLLM's policy of that name, programs that were given least so far go first: what a
        client knows."""
        self._rig, self._rtt_s, self._by_priority = rig, rtt_s, by_priority
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._arrivals: list[float] = []
        self._news: SimpleQueue[tuple[float, Callable[[], None]]] = SimpleQueue()  # from the engine's thread

    def play(self, trace: Trace) -> Play:
        """Raises Failed when nothing happens for long."""
        self._prepare()
        texts = Texts(self._rig, trace)
        self._warm(texts)
        self._arrivals = []
        before, began = self._rig.meter(), time.monotonic()
        talks = [_Conversation(s, self._body(s, texts)) for s in trace.scripts]
        for talk in talks:
            self._at(began + talk.script.at_s, lambda talk=talk: self._go_on(talk, None))  # type: ignore[misc]
        while any(talk.ended_at is None for talk in talks):
            self._turn()
        meter, seconds = self._rig.meter() - before, time.monotonic() - began
        ran = [Ran(t.script, (t.ended_at or 0.0) - began - t.script.at_s, t.first_s) for t in talks]
        return Play(ran, seconds, meter, self._arrivals)

    def _prepare(self) -> None:
        from vllm.v1.core.sched.request_queue import SchedulingPolicy

        policy, scheduler = SchedulingPolicy.PRIORITY if self._by_priority else SchedulingPolicy.FCFS, self._rig.host.scheduler
        self._rig.host.call_in_engine(lambda: setattr(scheduler, "policy", policy))

    def _warm(self, texts: Texts) -> None:
        """All shared prefixes have been asked for once, as the other side has computed its files."""
        for prompt in texts.prefixes.values():
            talk = _Conversation(Script(0.0, "warm", ()), _asking(prompt))
            self._go_on(talk, None)
            while talk.ended_at is None:
                self._turn()

    def _body(self, script: Script, texts: Texts) -> _Body:
        """What a client does for a program: its context is its own, and grows."""
        context = list(texts.prefixes[script.prefix[0]]) if script.prefix is not None else []
        for step in script.steps:
            if isinstance(step, Gap):
                yield step
                continue
            assert isinstance(step, Turn), "only whole turns are played"
            prompts = [context + texts.new(step.prompt) for _ in range(max(1, step.forks))]
            answers = yield _Send(prompts, step.decode)
            if not step.forks:
                context = prompts[0] + answers[0]

    # ---- time

    def _at(self, at: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (at, next(_SERIAL), what))

    def _turn(self) -> None:
        """Do what is due, or wait for it or for an answer."""
        if self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
            return
        left = self._due[0][0] - time.monotonic() if self._due else TIMEOUT_S
        try:
            at, what = self._news.get(timeout=max(0.0, left))
        except Empty:
            if left >= TIMEOUT_S:
                raise Failed(f"nothing happened for {TIMEOUT_S:g} s") from None
            return
        if self._rtt_s:
            self._at(at + self._rtt_s / 2, what)
        else:
            what()

    # ---- a conversation

    def _go_on(self, talk: _Conversation, answers: list[list[int]] | None) -> None:
        try:
            step = talk.body.send(answers)
        except StopIteration:
            talk.ended_at = time.monotonic()
            return
        if isinstance(step, Gap):
            self._at(time.monotonic() + step.seconds, lambda: self._go_on(talk, None))
        else:
            self._at(time.monotonic() + self._rtt_s / 2, lambda: self._send(talk, step)) if self._rtt_s else self._send(talk, step)

    def _send(self, talk: _Conversation, sent: _Send) -> None:
        asked_at = time.monotonic() - self._rtt_s / 2
        talk.num_open, talk.answers = len(sent.prompts), []
        for prompt in sent.prompts:
            self._submit(prompt, sent.decode, talk.served, self._hear(talk, [], asked_at))

    def _submit(self, prompt: list[int], num_tokens: int, served: int, hear: Hear) -> None:
        """One request; `hear` may be called by any thread."""
        from vllm import SamplingParams
        from vllm.v1.request import Request

        host = self._rig.host
        params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        request = Request(
            f"trace-{next(_SERIAL)}", prompt, params, None, block_hasher=host.core.request_block_hasher,
            priority=served if self._by_priority else 0,
        )  # fmt: skip
        host.add_plain(request, lambda output: hear(output.new_token_ids, output.finish_reason is not None), wait=False)

    def _hear(self, talk: _Conversation, answer: list[int], asked_at: float) -> Hear:
        """What is called with each output of one request."""

        def on_output(tokens: Sequence[int], is_last: bool) -> None:
            at = time.monotonic()
            if not answer:
                talk.first_s.append(at + self._rtt_s / 2 - asked_at)
            answer.extend(tokens)
            self._arrivals += [at] * len(tokens)
            if is_last:
                self._news.put((at, lambda: self._ended(talk, answer)))

        return on_output

    def _ended(self, talk: _Conversation, answer: list[int]) -> None:
        talk.num_open -= 1
        talk.answers.append(answer)
        talk.served += len(answer)
        if not talk.num_open:
            self._go_on(talk, talk.answers)
