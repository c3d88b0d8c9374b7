"""A toy machine behind lip's transport: files are lists, the model is a hash of the last two tokens, text is bytes.

It keeps the promises that programs see (length, atomic forward, `at`, one writer, fds that end, until, stop strings, keyed draws),
computes everything at once and in order, and remembers each call. `hold` names calls that are not answered until released.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Coroutine
from functools import lru_cache
from itertools import accumulate
from typing import Any

from vllm_symphony.abi import calls as c
from vllm_symphony.abi.draw import uniform
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import (
    Distribution,
    ExitStatus,
    FileStat,
    ModelInfo,
    OpenFlags,
    Predicate,
    ProcessStat,
    Sampler,
    Usage,
    pack_floats,
    pack_tokens,
    unpack_floats,
    unpack_tokens,
)  # fmt: skip
from vllm_symphony.errors import (
    BadFile,
    FileBusy,
    FileExists,
    InvalidArgument,
    NoSuchFile,
    NoSuchProcess,
    NotSupported,
    StaleFile,
    SymphonyError,
)  # fmt: skip
from vllm_symphony.lip import transport

VOCAB, END = 257, 256
LETTERS = b" etaoinshrdlu\n"


@lru_cache(maxsize=4096)
def row_after(tokens: tuple[int, ...], sharpness: float = 1.0) -> list[float]:
    """Raw logits after these tokens (the last two count), [VOCAB], float32 values."""
    rng = random.Random(f"{tokens[-2:]}")
    logits = [rng.gauss(0, 2) * sharpness for _ in range(VOCAB)]
    for byte in LETTERS:
        logits[byte] += 5
    logits[END] += 3
    return unpack_floats(pack_floats(logits))


def logsumexp(xs: list[float]) -> float:
    top = max(xs)
    return top + math.log(sum(math.exp(x - top) for x in xs))


def ranked(row: list[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda t: (-row[t], t))


def law(row: list[float], s: Sampler, seen: list[int] | None = None) -> list[tuple[int, float]]:
    """The reference: what may be drawn from a whole row, in rank order, with weights. Rules in vLLM's order."""
    logits = list(row)
    allowed = set(unpack_tokens(s.allowed)) if s.allowed is not None else set(range(VOCAB))
    for token, bias in (s.logit_bias or {}).items():
        logits[token] += bias
    for token in set(seen or ()):
        logits[token] -= s.presence_penalty + s.frequency_penalty * (seen or []).count(token)
    order = [t for t in ranked(logits) if t in allowed]
    if s.temperature == 0:
        return [(order[0], 1.0)]
    best = logits[order[0]]
    weights = [math.exp((logits[t] - best) / s.temperature) for t in order]
    kept = [(t, w) for t, w in zip(order, weights, strict=True) if w >= s.min_p]
    if s.top_k:
        kept = kept[: s.top_k]
    total, before, nucleus = sum(w for _, w in kept), 0.0, []
    for t, w in kept:
        if before >= s.top_p * total:
            break
        nucleus.append((t, w))
        before += w
    return nucleus


def draw(row: list[float], s: Sampler, position: int, number: int, seen: list[int] | None = None) -> int:
    """The remote draw: inverse CDF in rank order."""
    may = law(row, s, seen)
    cumulative = list(accumulate(w for _, w in may))
    u = uniform(s.seed or 0, position, number)
    return may[min(bisect_right(cumulative, u * cumulative[-1]), len(may) - 1)][0]


def distribution(row: list[float], position: int, top_k: int, temperature: float = 1.0, entropy: bool = True) -> Distribution:
    lse = logsumexp(row)
    ids = ranked(row)[:top_k]
    h = -sum(math.exp(x - lse) * (x - lse) for x in row)
    lse_t = logsumexp([x / temperature for x in row])
    logprobs = pack_floats(row[t] - lse for t in ids)
    return Distribution(position, pack_tokens(ids), logprobs, lse, h if entropy else math.nan, temperature, lse_t)


def fires(p: Predicate, row: list[float], num_tokens: int) -> bool:
    if p.op in ("and", "or"):
        return (all if p.op == "and" else any)(fires(part, row, num_tokens) for part in p.parts)
    d = distribution(row, 0, 2)
    best, second = (math.exp(lp) for lp in unpack_floats(d.logprobs))
    tokens = unpack_tokens(p.tokens)
    if p.op == "after":
        return num_tokens >= p.value
    if p.op == "every":
        return num_tokens > 0 and num_tokens % p.value == 0
    if p.op == "top1_in":
        return unpack_tokens(d.ids)[0] in tokens
    value = {
        "entropy": d.entropy,
        "top1": best,
        "margin": best - second,
        "mass": sum(math.exp(row[t] - d.logsumexp) for t in tokens),
    }[p.op]
    return value < p.value if p.below else value > p.value


class Inode:
    def __init__(self, ino: int, tokens: list[int]) -> None:
        self.ino, self.tokens, self.busy, self.path = ino, tokens, False, None
        self.sampled_from: int | None = None


class Machine:
    """Files, processes and a clock, shared by the programs' transports."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.processes: dict[int, asyncio.Task[Any]] = {}
        self.num_inodes = 0
        self.seconds = 0.0

    def new(self, tokens: list[int]) -> Inode:
        self.num_inodes += 1
        return Inode(self.num_inodes, tokens)


class ToyTransport:
    """One program's transport. `program`: the names that `spawn` finds its functions in."""

    def __init__(self, machine: Machine | None = None, program: dict[str, Any] | None = None, pid: int = 1, seed: int = 1) -> None:
        self.machine = machine or Machine()
        self.program = program or {}
        self.pid = pid
        self.random = random.Random(seed)
        self.fds: dict[int, Inode] = {}
        self.last_fd = 2
        self.log: list[tuple[str, int, object]] = []
        self.hold: set[str] = set()
        self.release = asyncio.Event()
        self.cancelled: list[str] = []
        self.left_open: set[int] = set()  # when the program ended

    def ops(self) -> list[str]:
        return [op for op, _, _ in self.log]

    # ---- the Transport protocol

    def call(self, op: str, args: object, *, tid: int, on_part: Callable[[object], None] | None = None) -> asyncio.Future[Any]:
        assert type(args) is CALLS[op].args, f"{op} takes {CALLS[op].args}, not {args}"
        self.log.append((op, tid, args))
        task = asyncio.get_running_loop().create_task(self._answer(op, args, on_part))
        task.add_done_callback(lambda t: self.cancelled.append(op) if t.cancelled() else t.exception())
        return task

    def post(self, op: str, args: object, *, tid: int) -> None:
        self.log.append((op, tid, args))
        if op == "close":
            self.fds.pop(args.fd)  # type: ignore[attr-defined]

    async def _answer(self, op: str, args: Any, on_part: Callable[[object], None] | None) -> Any:
        if op in self.hold:
            await self.release.wait()
        method = getattr(self, f"do_{op}")
        result = method(args, on_part) if op == "generate" else method(args)
        result = await result if inspect.isawaitable(result) else result
        assert type(result) is CALLS[op].result
        return result

    # ---- files

    def file(self, fd: int, at: int | None = None) -> Inode:
        if fd not in self.fds:
            raise BadFile(f"fd {fd} is not open")
        inode = self.fds[fd]
        if at is not None and at != len(inode.tokens):
            raise StaleFile(f"length is {len(inode.tokens)}, not {at}", length=len(inode.tokens))
        return inode

    def give(self, inode: Inode) -> c.FdResult:
        self.last_fd += 1
        self.fds[self.last_fd] = inode
        return c.FdResult(self.last_fd, inode.ino, len(inode.tokens))

    def tokens(self, packed: bytes) -> list[int]:
        tokens = unpack_tokens(packed)
        if any(t >= VOCAB for t in tokens):
            raise InvalidArgument(f"token id out of 0..{VOCAB - 1}")
        return tokens

    def do_open(self, a: c.Open) -> c.FdResult:
        tokens = self.tokens(a.tokens or b"")
        if a.path is None:
            assert a.flags & OpenFlags.TMPFILE
            return self.give(self.machine.new(tokens))
        inode = self.machine.names.get(a.path)
        if inode is None:
            if not a.flags & OpenFlags.CREAT:
                raise NoSuchFile(f"no such file: {a.path}")
            inode = self.machine.names[a.path] = self.machine.new(tokens)
            inode.path = a.path
        elif a.flags & OpenFlags.EXCL or a.tokens is not None:
            raise FileExists(f"{a.path} exists")
        elif a.flags & OpenFlags.TRUNC:
            inode.tokens.clear()
        return self.give(inode)

    def do_close(self, a: c.FdArgs) -> c.Done:
        self.file(a.fd)
        del self.fds[a.fd]
        return c.Done()

    def do_fork(self, a: c.FdArgs) -> c.FdResult:
        src = self.file(a.fd)
        inode = self.machine.new(list(src.tokens))
        inode.sampled_from = src.sampled_from
        return self.give(inode)

    def do_truncate(self, a: c.Truncate) -> c.Done:
        del self.file(a.fd, a.at).tokens[a.length :]
        return c.Done()

    def do_append(self, a: c.Append) -> c.LengthResult:
        inode = self.file(a.fd, a.at)
        inode.tokens += self.tokens(a.tokens)
        return c.LengthResult(len(inode.tokens))

    def do_read(self, a: c.Read) -> c.ReadResult:
        inode = self.file(a.fd) if a.fd is not None else self.machine.names[a.path or ""]
        tokens = inode.tokens[a.offset :][: a.count]
        positions = range(a.offset, a.offset + len(tokens))
        return c.ReadResult(pack_tokens(tokens), pack_tokens(positions), len(inode.tokens))

    def do_link(self, a: c.Link) -> c.Done:
        if a.path in self.machine.names:
            raise FileExists(f"{a.path} exists")
        self.machine.names[a.path] = self.file(a.fd)
        return c.Done()

    def do_unlink(self, a: c.PathArgs) -> c.Done:
        if self.machine.names.pop(a.path, None) is None:
            raise NoSuchFile(f"no such file: {a.path}")
        return c.Done()

    def do_rename(self, a: c.Rename) -> c.Done:
        self.machine.names[a.new] = self.machine.names.pop(a.old)
        return c.Done()

    def show(self, inode: Inode) -> FileStat:
        n = len(inode.tokens)
        return FileStat(inode.ino, inode.path, 1, "me", 0o600, n, n, 1, "exact", 1, inode.busy, 0, 0)

    def do_stat(self, a: c.Stat) -> c.StatResult:
        if a.path is not None and a.path not in self.machine.names:
            raise NoSuchFile(f"no such file: {a.path}")
        return c.StatResult(self.show(self.machine.names[a.path] if a.path is not None else self.file(a.fd or 0)))

    def do_list(self, a: c.List) -> c.ListResult:
        return c.ListResult(tuple(self.show(f) for path, f in sorted(self.machine.names.items()) if path.startswith(a.prefix)))

    # ---- model

    def do_forward(self, a: c.Forward) -> c.ForwardResult:
        inode, new = self.file(a.fd, a.at), self.tokens(a.tokens)
        if not new and not inode.tokens:
            raise InvalidArgument("forward without tokens on an empty file")
        if inode.busy:
            raise FileBusy("another call writes the file")
        old = len(inode.tokens)
        asked = {"last": [len(new) - 1], "all": list(range(len(new))), "": unpack_tokens(a.indices)}[a.outputs]
        inode.tokens += new
        made = tuple(
            distribution(row_after(tuple(inode.tokens[: old + i + 1])), old + i, a.top_k, a.temperature, a.entropy) for i in asked
        )
        return c.ForwardResult(len(inode.tokens), made)

    def do_forward_many(self, a: c.ForwardMany) -> c.ForwardManyResult:
        results: list[c.ForwardResult | None] = []
        errors: list[c.CallError | None] = []
        for item in a.items:
            try:
                results.append(self.do_forward(item))
                errors.append(None)
            except SymphonyError as e:
                results.append(None)
                errors.append(c.CallError(e.reason, e.message, dict(e.values)))
        return c.ForwardManyResult(tuple(results), tuple(errors))

    def do_sample(self, a: c.Sample) -> c.SampleResult:
        inode = self.file(a.fd)
        position = len(inode.tokens) - 1 if a.position is None else a.position
        if position >= len(inode.tokens):
            raise StaleFile(f"no row at {position}", length=len(inode.tokens))
        if a.sampler.temperature < 0 or not 0 < a.sampler.top_p <= 1 or a.n < 1:
            raise InvalidArgument("a value of the sampler is out of range")
        row = row_after(tuple(inode.tokens[: position + 1]))
        seen = self.seen(inode, a.sampler, position + 1)
        drawn = [draw(row, a.sampler, position, a.first_draw + i, seen) for i in range(a.n)]
        lse = logsumexp(row)
        return c.SampleResult(pack_tokens(drawn), pack_floats(row[t] - lse for t in drawn))

    def seen(self, inode: Inode, s: Sampler, length: int) -> list[int]:
        """Tokens that penalties count."""
        if inode.sampled_from is None:
            inode.sampled_from = length
        return inode.tokens[min(inode.sampled_from, length) if s.penalty_from is None else s.penalty_from : length]

    def do_logits(self, a: c.Logits) -> c.LogitsResult:
        inode = self.file(a.fd)
        position = len(inode.tokens) - 1 if a.position is None else a.position
        return c.LogitsResult(position, pack_floats(row_after(tuple(inode.tokens[: position + 1]))))

    async def do_generate(self, a: c.Generate, on_part: Callable[[object], None] | None) -> c.GenerateResult:
        inode = self.file(a.fd, a.at)
        if inode.busy:
            raise FileBusy("another call writes the file")
        script = iter(written(a)) if a.grammar else None
        start, logprobs, reason, stop, fired = len(inode.tokens), [], "length", None, None
        inode.busy = True
        try:
            for number in range(a.max_tokens):
                await asyncio.sleep(0)
                position = len(inode.tokens) - 1
                row = row_after(tuple(inode.tokens))
                if a.until is not None and fires(a.until, row, number):
                    reason, fired = "until", distribution(row, position, 20)
                    break
                seen = self.seen(inode, a.sampler, position + 1)
                token = next(script, None) if script else draw(row, a.sampler, position, 0, seen)
                if token is None:
                    reason = "grammar"
                    break
                inode.tokens.append(token)
                logprobs.append(row[token] - logsumexp(row))
                if a.stream and on_part:
                    on_part(c.GeneratePart(pack_tokens([token]), text_of([token]), pack_floats(logprobs[-1:] * a.logprobs)))
                text = text_of(inode.tokens[start:])
                stop = next((s for s in a.stop if s in text), None)
                ends = token == END and not a.ignore_eos and not script
                if stop or ends or token in unpack_tokens(a.stop_tokens):
                    reason = "stop"
                    break
        finally:
            inode.busy = False
        new = inode.tokens[start:]
        return c.GenerateResult(
            len(inode.tokens), reason, pack_tokens(new), text_of(new) if a.text else "", stop,
            pack_floats(logprobs if a.logprobs else ()), fired,
        )  # fmt: skip

    # ---- text

    def do_tokenize(self, a: c.Tokenize) -> c.TokensResult:
        return c.TokensResult(pack_tokens(list(a.text.encode())))

    def do_detokenize(self, a: c.Detokenize) -> c.TextResult:
        return c.TextResult(text_of(unpack_tokens(a.tokens)))

    def do_render_chat(self, a: c.RenderChat) -> c.TokensResult:
        said = [f"{m['role']}: {m['content']}\n" for m in json.loads(a.messages)]
        return c.TokensResult(pack_tokens(list("".join([*said, "assistant: " * a.add_generation_prompt]).encode())))

    def do_parse_tools(self, a: c.ParseTools) -> c.JsonResult:
        return c.JsonResult(json.dumps([{"name": a.text, "parser": a.parser}]))

    def do_model_info(self, _: c.NoArgs) -> c.ModelInfoResult:
        return c.ModelInfoResult(ModelInfo("toy", VOCAB, 4096, 16, 64, 256, (END,)))

    # ---- processes and the world

    def do_spawn(self, a: c.Spawn) -> c.PidResult:
        names = dict(self.program)
        if a.source is not None:
            exec(compile(a.source, "child", "exec"), names)
        pid = len(self.machine.processes) + 100
        child = ToyTransport(self.machine, names, pid)
        self.machine.processes[pid] = asyncio.get_running_loop().create_task(run(child, names[a.entry], json.loads(a.args)))
        return c.PidResult(pid)

    async def do_wait(self, a: c.Wait) -> c.WaitResult:
        if a.pid not in self.machine.processes:
            raise NoSuchProcess(f"no process {a.pid}")
        task = self.machine.processes[a.pid]
        try:
            status = ExitStatus(0, "exit", json.dumps(await asyncio.shield(task)))
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            status = ExitStatus(130, "cancelled")
        except Exception as e:  # noqa: BLE001  a program may crash only itself
            status = ExitStatus(1, "exception", error=f"{type(e).__name__}: {e}")
        del self.machine.processes[a.pid]
        return c.WaitResult(a.pid, status, self.process(a.pid))

    def process(self, pid: int) -> ProcessStat:
        return ProcessStat(pid, None, "toy", "me", "running", 0, None, 1, 0, 0, (), Usage())

    def do_kill(self, a: c.Kill) -> c.Done:
        if a.pid not in self.machine.processes:
            raise NoSuchProcess(f"no process {a.pid}")
        self.machine.processes[a.pid].cancel()
        return c.Done()

    def do_ps(self, a: c.Ps) -> c.PsResult:
        pids = [self.pid, *self.machine.processes]
        return c.PsResult(tuple(self.process(p) for p in pids if a.pid in (None, p)))

    def do_getpid(self, _: c.NoArgs) -> c.PidResult:
        return c.PidResult(self.pid)

    def do_sleep(self, a: c.Sleep) -> c.Done:
        self.machine.seconds += a.seconds
        return c.Done()

    def do_now(self, _: c.NoArgs) -> c.TimeResult:
        return c.TimeResult(1e9 + self.machine.seconds)

    def do_monotonic(self, _: c.NoArgs) -> c.TimeResult:
        return c.TimeResult(self.machine.seconds)

    def do_random(self, a: c.Random) -> c.BytesResult:
        return c.BytesResult(self.random.randbytes(a.count))


def text_of(tokens: list[int]) -> str:
    return bytes(t for t in tokens if t != END).decode(errors="replace")


def written(a: c.Generate) -> bytes:
    """What the toy writes under a grammar: the least that it allows."""
    assert a.grammar is not None
    if a.grammar.kind == "choice":
        return str(json.loads(a.grammar.text)[0]).encode()
    if a.grammar.kind == "json":
        return json.dumps(instance(json.loads(a.grammar.text))).encode()
    raise NotSupported(f"the toy has no {a.grammar.kind}")


def instance(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: instance(part) for name, part in schema["properties"].items()}
    return {"string": "x", "integer": schema.get("minimum", 0), "array": []}[schema["type"]]


async def run(toy: ToyTransport, main: Callable[..., Any], args: dict[str, Any] | None = None) -> Any:
    """Run `main` as a program on `toy`, as the runtime does; at its end the process's fds are given back."""
    transport.bind(toy)
    try:
        result = main(**(args or {}))
        return await result if inspect.isawaitable(result) else result
    finally:
        toy.left_open = set(toy.fds)
        toy.fds.clear()


def play(main: Callable[[], Coroutine[Any, Any, Any]], toy: ToyTransport | None = None) -> Any:
    """Run a program to its end in a loop of its own."""

    async def inside() -> Any:
        return await run(toy or ToyTransport(), main)

    return asyncio.run(inside())
