"""Cases of plain requests beside programs where rows, tokens or pages are short: run by test_sharing.py in their own process."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

from tests.engine.conftest import tiny_args
from tests.engine.driver import Driver
from tests.engine.pressure import after_steps, calm
from tests.engine.reference import Plain, Ties, best, decode, finish_plain, long_prompt, plain, prompts, start_plain, together
from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.admission import is_ending
from vllm_symphony.engine.job import CLIENT, JOB_PREFIX
from vllm_symphony.engine.share import Share
from vllm_symphony.kernel.effect import CancelJob, DropFile, Owner, SetPolicy, Weigh
from vllm_symphony.kernel.sched import catalogue
from vllm_symphony.kernel.sched.queue import QUANTUM

NUM_PAGES = 160
ROWS, TOKENS = 8, 64  # of a step


def engine_args() -> Any:
    return tiny_args(
        num_gpu_blocks_override=NUM_PAGES + 1, max_model_len=1024, max_num_batched_tokens=TOKENS, max_num_seqs=ROWS,
        scheduling_policy="priority",
    )  # fmt: skip


@dataclass
class Side:
    """One step, as a side saw it."""

    rows: int = 0
    reads: int = 0  # tokens of prompts
    left_out: int = 0
    one_left_out: int = 0  # of those who wanted a single token
    cut: int = 0


@dataclass
class Seen:
    steps: list[tuple[Side, Side]] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)  # numbers of plain requests, by step, the last first

    def part(self, what: str, short: Callable[[Side], int]) -> float:
        """What programs had of it in the steps in which both sides were short."""
        both = [s for s in self.steps if all(map(short, s))]
        sums = [sum(getattr(side, what) for side in column) for column in zip(*both, strict=True)]
        assert len(both) >= 20, f"both wanted more in {len(both)} of {len(self.steps)} steps only"
        return sums[1] / sum(sums)

    def longest_wait(self, side: int) -> int:
        """Most steps in a row in which that side wanted a row and had none."""
        longest = now = 0
        for step in self.steps:
            now = now + 1 if step[side].left_out and not step[side].rows else 0
            longest = max(longest, now)
        return longest


@contextmanager
def watched(dev: Driver, share: Share | None = None) -> Iterator[Seen]:
    """What each step gives to each side."""
    scheduler, device, seen = dev.host.scheduler, dev.host.device, Seen()

    def schedule(*args: Any) -> Any:
        output = type(scheduler).schedule(scheduler, *args)
        sides = (Side(), Side())
        begins: list[int] = []
        for rid, r in scheduler.requests.items():
            if rid in device.resting:
                continue
            side, n = sides[rid.startswith(JOB_PREFIX)], output.num_scheduled_tokens.get(rid, 0)
            if n:
                side.rows += 1
                if r.client_index != CLIENT and (number := int(rid.removeprefix("plain-"))) not in seen.begun:
                    begins.append(number)
                side.reads += n if n > 1 else 0
                side.cut += r.is_prefill_chunk
            elif not is_ending(r):
                side.left_out += 1
                side.one_left_out += r.num_tokens + r.num_output_placeholders - r.num_computed_tokens == 1
        seen.steps.append(sides)
        seen.begun += sorted(begins, reverse=True)
        return output

    before = dev.counters()
    scheduler.share, scheduler.schedule = share or Share(), schedule
    try:
        yield seen
    finally:
        del scheduler.schedule
        scheduler.share = Share()
    grew = {k: v - before[k] for k, v in dev.counters().items()}
    assert grew["preempted"] == 0, grew


def bytecodes_of_steps(dev: Driver, num_calls: int, num_steps: int) -> int:
    """What the scheduler's Python executes in the middle one of so many steps while so many calls wait. Not seconds: these are the
    machine's. Not the dearest: in one of them the process policy moves its virtual time past all that came at once."""
    scheduler, ended = dev.host.scheduler, threading.Event()
    counts: list[int] = []
    num = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal num
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        num += event == "opcode"
        return trace

    def traced(method: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal num
            if len(counts) == 2 * num_steps:
                return getattr(type(scheduler), method)(scheduler, *args)
            assert scheduler.num_held() >= num_calls - ROWS * num_steps
            num, before = 0, sys.gettrace()
            sys.settrace(trace)
            try:
                return getattr(type(scheduler), method)(scheduler, *args)
            finally:
                sys.settrace(before)
                counts.append(num)
                if len(counts) == 2 * num_steps:
                    ended.set()

        return run

    with all_at_once(dev, num_calls):
        files = [dev.create([5, 6]) for _ in range(num_calls)]
        jobs = [dev.start_forward(f, [])[0] for f in files]
        scheduler.schedule, scheduler.update_from_output = traced("schedule"), traced("update_from_output")
    try:
        assert ended.wait(60), f"{len(counts) // 2} steps of {num_steps}"
    finally:
        del scheduler.schedule, scheduler.update_from_output
    dev.submit(*map(CancelJob, jobs), *map(DropFile, files))
    return median_low(map(sum, zip(counts[::2], counts[1::2], strict=True)))


def forget(dev: Driver) -> None:
    """vLLM's prefix cache has seen nothing: prompts are read."""
    assert dev.call(dev.host.scheduler.reset_prefix_cache)


_ALONE: dict[tuple[int, ...], Plain] = {}


def alone_of(dev: Driver, text: list[int], n: int) -> Plain:
    """What plain vLLM gives for it when nobody else is there: asked once, the greedy tokens of a shorter answer are its first."""
    known = _ALONE.get(tuple(text))
    if known is None or len(known.tokens) < n:
        known = _ALONE[tuple(text)] = plain(dev, text, n)
    return Plain(known.tokens[:n], known.tops[:n])


@contextmanager
def all_at_once(dev: Driver, num_calls: int) -> Iterator[None]:
    """No step is made before so many calls are there, each on a file of its own, however slow their threads are."""
    held, go, over, mail = threading.Event(), threading.Event(), threading.Event(), dev.host.device.mail

    def hold() -> None:
        held.set()
        go.wait()

    def release() -> None:
        while sum(hasattr(e, "job") for e in list(mail)) < num_calls and not over.is_set():
            time.sleep(0.001)
        go.set()

    threads = [threading.Thread(target=dev.call, args=(hold,)), threading.Thread(target=release)]
    for t in threads:
        t.start()
    held.wait()
    try:
        yield
    finally:
        over.set()
        for t in threads:
            t.join()


def crowd(dev: Driver, num_plain: int, num_programs: int, n: int) -> None:
    """Streams and token-by-token programs, each with the tokens that it has alone."""
    texts = prompts(dev, num_plain + num_programs)
    alone = [alone_of(dev, t, n) for t in texts]
    ties = Ties()
    with all_at_once(dev, num_programs):
        streams = [start_plain(dev, t, n, None, wait=False) for t in texts[:num_plain]]
        programs = zip(texts[num_plain:], alone[num_plain:], strict=True)
        together(*[lambda t=t, a=a: decode(dev, t, a, ties, 5) for t, a in programs])
    assert [finish_plain(q).tokens for q in streams] == [a.tokens for a in alone[:num_plain]]


def case_rows_are_halved_while_both_want_more(dev: Driver) -> None:
    with watched(dev) as seen:
        crowd(dev, 16, 12, 30)

    assert 0.45 <= seen.part("rows", lambda s: s.left_out) <= 0.55
    assert max(seen.longest_wait(0), seen.longest_wait(1)) <= 1


def case_rows_follow_the_weights(dev: Driver) -> None:
    with watched(dev, Share(3, 1)) as seen:
        crowd(dev, 24, 8, 20)

    assert 0.225 <= seen.part("rows", lambda s: s.left_out) <= 0.275
    assert max(seen.longest_wait(0), seen.longest_wait(1)) <= 1


def case_what_one_side_leaves_the_other_takes(dev: Driver) -> None:
    with watched(dev, Share(1, 20)) as seen:
        crowd(dev, 16, 2, 20)

    crowded = [s for s in seen.steps if s[0].left_out and not any(side.reads for side in s)]  # prompts may be short of tokens
    assert crowded and all(p.rows + g.rows == ROWS for p, g in crowded)


def case_prompts_of_both_sides_halve_the_tokens_and_hold_up_nobody_who_decodes(dev: Driver) -> None:
    texts = [long_prompt(dev, 900, salt=41 * i) for i in range(4)]
    alone = [plain(dev, t, 3) for t in texts]
    short = prompts(dev, 4)
    alone_short = [plain(dev, t, 60) for t in short]
    ties = Ties()
    forget(dev)

    with watched(dev) as seen, all_at_once(dev, 4):
        streams = [start_plain(dev, t, 60, None, wait=False) for t in short[:2]]
        readers = [start_plain(dev, t, 3, None, wait=False) for t in texts[:2]]
        work = [(t, a) for t, a in zip([*short[2:], *texts[2:]], [*alone_short[2:], *alone[2:]], strict=True)]
        together(*[lambda t=t, a=a: decode(dev, t, a, ties, 5) for t, a in work])
        got = [finish_plain(q).tokens for q in (*streams, *readers)]

    assert got == [a.tokens for a in (*alone_short[:2], *alone[:2])]
    assert 0.45 <= seen.part("reads", lambda s: s.cut or s.left_out) <= 0.55
    assert not any(side.one_left_out for step in seen.steps for side in step)


def case_a_long_prompt_of_a_stream_holds_up_no_new_file(dev: Driver) -> None:
    reader, small = long_prompt(dev, 900, salt=7), prompts(dev, 1)[0][:20]
    alone = plain(dev, reader, 3).tokens
    forget(dev)

    with watched(dev) as seen:
        q = start_plain(dev, reader, 3, None)
        rounds = 0
        while q.empty():  # each round a new file, and its first call is a new request
            f = dev.create(small)
            dev.forward(f, [best(dev.forward(f, [])[0])])
            dev.drop(f)
            rounds += 1

    assert finish_plain(q).tokens == alone
    assert rounds >= 3
    assert seen.longest_wait(1) == 0


def case_old_files_in_use_leave_plain_requests_their_part_of_the_pages(dev: Driver) -> None:
    books, texts = [long_prompt(dev, 800, salt=100 * i) for i in range(6)], [long_prompt(dev, 400, salt=31 * i) for i in range(12)]
    alone = [plain(dev, t, 20).tokens for t in texts]
    files = [dev.create(t) for t in books]
    rows = [dev.forward(f, [])[0] for f in files]
    ended = threading.Event()

    def use(i: int) -> int:
        """Looks at the end of the book, again and again: it needs no page but those that it has."""
        looks = 0
        while not ended.is_set():
            (d,) = dev.forward(files[i], [best(rows[i])], keep="none")
            dev.truncate(files[i], 800)
            looks += 1
        assert d.position == 800
        return looks

    def ask() -> list[list[int]]:
        try:
            return [finish_plain(q).tokens for q in [start_plain(dev, t, 20, None) for t in texts]]
        finally:
            ended.set()

    with watched(dev) as seen:
        *looks, got = together(*[lambda i=i: use(i) for i in range(6)], ask)

    assert got == alone
    assert min(looks) > 0
    assert max(seen.longest_wait(0), seen.longest_wait(1)) <= 50
    dev.check()
    dev.drop(*files)


def case_plain_requests_without_end_leave_programs_their_part_of_the_pages(dev: Driver) -> None:
    texts = [long_prompt(dev, 600, salt=17 * i) for i in range(28)]
    alone = [plain(dev, t, 8).tokens for t in texts]
    small = [long_prompt(dev, 600, salt=1000 + i) for i in range(4)]

    with watched(dev) as seen, all_at_once(dev, 4):
        streams = [start_plain(dev, t, 8, None, wait=False) for t in texts]
        files = [dev.create(t) for t in small]
        together(*[lambda f=f: [dev.forward(f, [5], keep="none") for _ in range(5)] for f in files])
        got = [finish_plain(q).tokens for q in streams]

    assert got == alone
    wanted = sum(bool(s[1].rows or s[1].left_out) for s in seen.steps)  # however slow the programs are to call again
    assert wanted <= len(seen.steps) * 2 / 3, f"programs that came last were done after {wanted} of {len(seen.steps)} steps"
    dev.check()
    dev.drop(*files)


def case_one_program_has_its_half_beside_40_of_another_principal(dev: Driver) -> None:
    principals, texts = dev.host.device.order.queue.principals, prompts(dev, 72)
    owners = [Owner(Pid(1 + i), principal="crowd") for i in range(40)] + [Owner(Pid(99), i, "single") for i in range(32)]
    all_run = lambda: (p := principals.get("single")) is not None and p.tokens and not p.programs  # noqa: E731
    had = after_steps(dev, all_run, lambda: [principals[name].tokens for name in ("single", "crowd")])

    with all_at_once(dev, len(owners)):
        files = [dev.create(t) for t in texts]
        calls = [dev.start_generate(f, 40, owner=owner) for f, owner in zip(files, owners, strict=True)]
    tokens = [dev.collect(f, q).tokens for f, (_, q) in zip(files, calls, strict=True)]
    calm(dev)

    assert [len(t) for t in tokens] == [40] * 72
    ((single, crowd),) = had
    assert abs(single - crowd) <= 2 * QUANTUM
    dev.drop(*files)


def case_a_step_among_10_000_waiting_calls_does_little_more_than_among_200(dev: Driver) -> None:
    few, many = bytecodes_of_steps(dev, 200, 8), bytecodes_of_steps(dev, 10_000, 8)

    print(f"{few} and {many} bytecodes a step", file=sys.stderr)
    assert many < 1.2 * few


def case_priorities_of_plain_requests_hold_beside_programs(dev: Driver) -> None:
    texts = prompts(dev, 28)
    alone = [alone_of(dev, t, 15) for t in texts]
    ties = Ties()

    with watched(dev) as seen, all_at_once(dev, 8):
        streams = [start_plain(dev, texts[i], 15, None, priority=-i, wait=False) for i in range(20)]  # the last is the most urgent
        together(*[lambda i=i: decode(dev, texts[i], alone[i], ties, 5) for i in range(20, 28)])
        got = [finish_plain(q).tokens for q in streams]

    assert seen.begun == sorted(seen.begun, reverse=True)
    assert got == [a.tokens for a in alone[:20]]
    assert seen.longest_wait(1) <= 1


def case_no_call_is_lost_when_policies_weights_and_caps_change_while_200_wait(dev: Driver) -> None:
    texts = prompts(dev, 8)
    alone = [plain(dev, t, 4).tokens for t in texts]
    served = [(level, name) for level, known in catalogue.LEVELS.items() for name in known if name not in catalogue.SIMULATED]
    changes = [*(SetPolicy(level, name) for level, name in served), Weigh("", 2.0, 3), Weigh("", 0.5, None)] * 3
    queue, preempted = dev.host.device.order.queue, dev.counters()["preempted"]
    waiting = []

    with all_at_once(dev, 200):
        files = [dev.create(texts[i % 8]) for i in range(200)]
        calls = [dev.start_generate(f, 4)[1] for f in files]
    for change in changes:
        dev.submit(change)
        waiting.append(dev.call(lambda: queue.num_waiting))  # after it, and a step or more later
    got = [dev.collect(f, q).tokens for f, q in zip(files, calls, strict=True)]

    assert got == [alone[i % 8] for i in range(200)]
    assert waiting[0] >= 100 and waiting[len(served)] > 0, "policies changed while many waited"
    assert dev.counters()["preempted"] == preempted
    for level, name in catalogue.DEFAULTS.items():
        dev.submit(SetPolicy(level, name))
    dev.submit(Weigh(""))
    dev.check()
    dev.drop(*files)
