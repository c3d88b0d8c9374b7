"""Cases of a cache of 32 pages over host memory of 48 and a disk: run by test_tiers.py in a process of their own."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import tiny_args
from tests.engine.driver import Driver, ids, logprobs
from tests.engine.pressure import alone
from tests.engine.reference import best, long_prompt, prompts, together
from vllm_symphony.abi.types import Pid
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import DataCorrupt, Interrupted, OutOfPages
from vllm_symphony.kernel.effect import (
    CreateFile,
    JobFailed,
    LimitDomain,
    MoveDone,
    MoveJob,
    Owner,
    PinFile,
    ProcessBegan,
    ProcessEnded,
    Residency,
    Rests,
    Resumes,
    SaveDone,
    SaveJob,
    SetPolicy,
)  # fmt: skip
from vllm_symphony.kernel.sched import memory
from vllm_symphony.store.segment import verify

NUM_PAGES, HOST_PAGES = 32, 48
FOLDER = Path(tempfile.gettempdir()) / f"symphony-tiers-{os.getpid()}"


def engine_args() -> Any:
    return tiny_args(num_gpu_blocks_override=NUM_PAGES + 1, max_model_len=1024, max_num_batched_tokens=128, max_num_seqs=16)


def engine(args: Any) -> Driver:
    from vllm_symphony.engine.own import OwnHost

    FOLDER.mkdir()
    atexit.register(shutil.rmtree, FOLDER)
    page_bytes = 2 * 4 * 32 * 2 * 64 * 4
    dev = Driver(OwnHost(args, tiers=TierLimits(HOST_PAGES * page_bytes, 1 << 30, FOLDER)))
    dev.host.device.tiers.copies.num_disk_pages = 1 << 20
    return dev


def ask(dev: Driver, effect: Callable[[int], Any]) -> Any:
    """A job's completion; a failure raises."""
    job, q = dev.job()
    dev.submit(effect(job))
    done = q.get(timeout=60)
    if isinstance(done, JobFailed):
        raise done.error
    return done


def move(dev: Driver, ino: Any, tier: str) -> MoveDone:
    done = ask(dev, lambda job: MoveJob(job, ino, tier, Owner()))
    assert isinstance(done, MoveDone)
    return done


def save(dev: Driver, ino: Any) -> SaveDone:
    done = ask(dev, lambda job: SaveJob(job, ino, Owner()))
    assert isinstance(done, SaveDone)
    return done


def where(dev: Driver, ino: Any) -> Residency:
    """Counts of pages, with the engine at rest."""
    return dev.call(lambda: dev.host.device.residency(ino))


def bytes_of(dev: Driver, ino: Any) -> list[bytes]:
    """What is in the file's pages on the device."""

    def look() -> list[bytes]:
        device = dev.host.device
        device.retire(device.table.files[ino])
        (pages,) = device.rpc(lambda worker: worker._pages())
        out = []
        for block in device.table.files[ino].blocks:
            page = np.empty((1, pages.page_bytes), np.uint8)
            pages.out(block.block_id, page)
            out.append(page.tobytes())
        return out

    return dev.call(look)


def rest(dev: Driver, *inos: Any) -> None:
    """Drop the files and wait until nothing moves; then nothing is left below either."""
    dev.drop(*inos)
    tiers = dev.host.device.tiers
    deadline = time.monotonic() + 30
    while dev.call(lambda: len(tiers.moves)):
        assert time.monotonic() < deadline, tiers.moves
    assert dev.call(lambda: (tiers.copies.host_pages.total(), tiers.copies.disk_pages.total())) == (0, 0)
    assert not [p.name for p in FOLDER.iterdir() if p.name.startswith("spill-") or p.name.endswith(".tmp")]


def same(a: Any, b: Any) -> bool:
    """The same distributions: the same bits are computed with, though in batches of other shapes."""
    return all(ids(x) == ids(y) and np.allclose(logprobs(x), logprobs(y), atol=1e-4) for x, y in zip(a, b, strict=True))


def case_a_file_comes_back_from_each_tier_bit_by_bit(dev: Driver) -> None:
    for tier in ("host", "disk"):
        prompt = long_prompt(dev, 200, salt=7)
        f = dev.create(prompt)
        first = dev.forward(f, [])
        before = bytes_of(dev, f)

        away = move(dev, f, tier)
        assert (away.num_pages, where(dev, f).device_pages) == (7, 0)
        assert (where(dev, f).host_pages, where(dev, f).disk_pages) == ((7, 0) if tier == "host" else (0, 7))
        assert where(dev, f).frontier == 200
        back = move(dev, f, "device")

        assert (back.num_pages, back.num_bytes) == (away.num_pages, away.num_bytes)
        assert bytes_of(dev, f) == before
        assert same(dev.forward(f, []), first)
        rest(dev, f)


def case_a_forward_on_a_demoted_file_brings_it_back_and_computes_nothing_again(dev: Driver) -> None:
    prompt = long_prompt(dev, 300, salt=11)
    f, reference = dev.create(prompt), dev.create([*prompt, 5, 6])
    expected = dev.forward(reference, [])
    dev.forward(f, [])
    move(dev, f, "host")
    dev.drop(reference)
    tokens = sum(s.num_tokens for s in dev.steps)

    got = dev.forward(f, [5, 6])

    assert same(got, expected)
    assert sum(s.num_tokens for s in dev.steps) - tokens == 2
    rest(dev, f)


def case_an_edited_file_survives_pressure_on_all_tiers(dev: Driver) -> None:
    source = dev.create(long_prompt(dev, 400, salt=13))
    edited = dev.extract(source, (0, 50), (150, 380))
    dev.drop(source)
    first = dev.forward(edited, [])
    kept = bytes_of(dev, edited)
    others = [dev.create(long_prompt(dev, 500, salt=20 + i)) for i in range(5)]
    together(*(lambda f=f: dev.forward(f, []) for f in others))
    dev.submit(LimitDomain("", host_bytes=0))
    move(dev, edited, "disk")
    assert where(dev, edited).disk_pages == where(dev, edited).host_pages + len(kept)
    dev.submit(LimitDomain(""))

    assert same(dev.forward(edited, []), first)
    assert bytes_of(dev, edited)[:-1] == kept[:-1]
    rest(dev, edited, *others)


def case_32_programs_over_a_cache_that_holds_a_quarter_of_them(dev: Driver) -> None:
    wanted = [alone(dev, p, 12) for p in (long_prompt(dev, 100, salt=40 + i) for i in range(32))]
    loaded = dev.counters()["pages_loaded"]
    files = [dev.create(long_prompt(dev, 100, salt=40 + i)) for i in range(32)]
    firsts = together(*(lambda f=f: best(dev.forward(f, [])[0]) for f in files))  # the younger ones push the older ones out

    def program(i: int) -> list[int]:
        tokens = [firsts[i]]
        while len(tokens) < 12:
            tokens.append(best(dev.forward(files[i], [tokens[-1]])[0]))
        dev.drop(files[i])
        return tokens

    got = together(*(lambda i=i: program(i) for i in range(32)))

    assert got == wanted
    assert dev.counters()["pages_loaded"] > loaded
    rest(dev)


def agent(dev: Driver, pid: int, prompt: list[int], turns: list[tuple[float, int]]) -> list[int]:
    """A program with one file: answers, and tools that take so many seconds each."""
    of_it = Owner(Pid(pid), principal="ann", program="agent")
    f, tokens = dev.create(prompt), []
    dev.submit(ProcessBegan(Pid(pid), None, "ann", "agent"))
    for seconds, num_tokens in turns:
        tokens += dev.generate(f, num_tokens, owner=of_it).tokens
        dev.submit(Rests(Pid(pid), 0, "tool", f"takes {seconds}", 1))
        time.sleep(seconds)  # the tool's
        dev.submit(Resumes(Pid(pid), 0, 1))
    dev.submit(ProcessEnded(Pid(pid)))
    dev.drop(f)
    return tokens


def case_agents_under_every_memory_policy_end_without_vllm_preempting_and_without_thrashing(dev: Driver) -> None:
    admission = dev.host.scheduler.admission
    turns, size = [(0.002, 6), (0.1, 14)], 400
    prompts_of = [long_prompt(dev, size, salt=500 + 9 * i) for i in range(8 * NUM_PAGES * 32 // (size + 20))]
    answers = [alone(dev, t, 20) for t in prompts_of]
    for pressure in (2, 4, 8):
        num = len(answers) * pressure // 8
        texts, expected = prompts_of[:num], answers[:num]
        for policy in ("lru", "infercept", "ttl"):
            dev.submit(SetPolicy("memory", policy))
            before, given_up = dev.counters(), admission.num_given_up

            got = together(*[lambda pid=i + 1, t=t: agent(dev, pid, t, turns) for i, t in enumerate(texts)])

            grew = {k: v - before[k] for k, v in dev.counters().items()}
            calls = len(texts) * len(turns)
            shown = {k: grew[k] for k in ("preempted", "parked", "moves_begun", "fetched_files", "evicted", "engine_steps")}
            print(f"pressure {pressure}, {policy}, {calls} calls: {shown}", file=sys.stderr)
            assert got == expected
            assert grew["preempted"] == admission.num_given_up - given_up  # by rule 4 of room.py, none by vLLM
            assert grew["moves_begun"] <= 2 * calls + 2 * grew["fetched_files"]
            dev.check()
            rest(dev)
    dev.submit(SetPolicy("memory", memory.DEFAULT))


def case_forks_share_one_copy_of_each_page(dev: Driver) -> None:
    a = dev.create(long_prompt(dev, 256, salt=17))
    dev.forward(a, [])
    forks = [dev.fork(a) for _ in range(4)]
    for i, f in enumerate(forks):
        dev.forward(f, [10 + i])

    for f in (a, *forks):
        move(dev, f, "host")

    assert dev.call(lambda: dev.host.device.tiers.copies.host_pages.total()) == 8 + 4
    assert where(dev, a).device_pages == 0
    rest(dev, a, *forks)


def case_forks_of_a_file_below_come_back_once_and_run_side_by_side(dev: Driver) -> None:
    prompt = long_prompt(dev, 256, salt=29)
    texts = [[10 + i, 20 + i, 30 + i] for i in range(4)]
    expected = []
    for text in texts:
        f = dev.create([*prompt, *text])
        expected.append(dev.forward(f, []))
        dev.drop(f)
    for is_back in (False, True):
        a = dev.create(prompt)
        dev.forward(a, [])
        move(dev, a, "host")
        if is_back:
            move(dev, a, "device")
        forks = [dev.fork(a) for _ in texts]
        loaded = dev.host.counters()["pages_loaded"]

        got = together(*(lambda f=f, text=text: dev.forward(f, text) for f, text in zip(forks, texts, strict=True)))

        assert all(same(g, e) for g, e in zip(got, expected, strict=True))
        assert dev.host.counters()["pages_loaded"] - loaded == (0 if is_back else 8)
        rest(dev, a, *forks)


def case_a_saved_file_is_read_by_another_and_is_not_written_twice(dev: Driver) -> None:
    prompt = long_prompt(dev, 130, salt=19)
    f = dev.create(prompt)
    first = dev.forward(f, [])
    before = bytes_of(dev, f)

    saved = save(dev, f)
    again = save(dev, f)

    assert saved.num_tokens == sum(p.num_tokens for p in saved.pages) == 130
    assert (again.pages, again.num_bytes) == (saved.pages, 0) and saved.num_bytes
    dev.drop(f)
    restored = dev.create([])
    dev.drop(restored)
    dev.lengths[restored] = 130
    dev.submit(CreateFile(restored, list(prompt), "", saved=saved.pages))
    assert where(dev, restored) == Residency(130, 0, 0, 5)
    move(dev, restored, "device")
    assert bytes_of(dev, restored) == before
    assert same(dev.forward(restored, []), first)
    rest(dev, restored)
    (path,) = {FOLDER / p.segment for p in saved.pages}
    assert verify(path) == {}
    path.unlink()


def case_what_is_demoted_is_made_to_last_when_it_is_saved(dev: Driver) -> None:
    f = dev.create(long_prompt(dev, 90, salt=23))
    dev.forward(f, [])
    move(dev, f, "disk")

    saved = save(dev, f)

    rest(dev, f)
    assert saved.num_bytes == 0 and sum(p.num_tokens for p in saved.pages) == 90
    for name in {p.segment for p in saved.pages}:
        assert verify(FOLDER / name) == {}
        (FOLDER / name).unlink()


def damage(dev: Driver, ino: Any) -> None:
    """Flip a bit of the file's second page, wherever it is below."""

    def flip() -> None:
        device = dev.host.device
        copy = device.table.files[ino].copies[1]
        if copy.slot is not None:
            (mover,) = device.rpc(lambda worker: worker.symphony_mover._mover)
            mover._arena[copy.slot, 99] ^= 4
        else:
            with (FOLDER / copy.saved.segment).open("r+b") as segment:
                segment.seek(-99, 2)
                byte = segment.read(1)[0]
                segment.seek(-99, 2)
                segment.write(bytes((byte ^ 4,)))

    dev.call(flip)


def case_a_damaged_page_of_an_exact_file_is_computed_again(dev: Driver) -> None:
    for tier in ("host", "disk"):
        f = dev.create(long_prompt(dev, 64, salt=29))
        first = dev.forward(f, [])
        move(dev, f, tier)
        damage(dev, f)
        corrupt = dev.counters()["pages_corrupt"]

        assert same(dev.forward(f, []), first)
        assert dev.counters()["pages_corrupt"] == corrupt + 1
        rest(dev, f)


def case_a_damaged_page_of_an_edited_file_is_eio_and_its_source_goes_on(dev: Driver) -> None:
    source = dev.create(long_prompt(dev, 100, salt=31))
    edited = dev.extract(source, (0, 10), (30, 85))
    move(dev, edited, "host")
    damage(dev, edited)

    with pytest.raises(DataCorrupt, match="host memory"):
        dev.forward(edited, [])
    assert dev.forward(source, [])
    rest(dev, edited, source)


def case_a_pinned_file_stays_and_comes_back(dev: Driver) -> None:
    f = dev.create(long_prompt(dev, 200, salt=37))
    dev.forward(f, [])
    move(dev, f, "host")
    dev.submit(PinFile(f, True))
    deadline = time.monotonic() + 30
    while where(dev, f).device_pages != 7:
        assert time.monotonic() < deadline, where(dev, f)

    others = [dev.create(long_prompt(dev, 500, salt=50 + i)) for i in range(3)]
    together(*(lambda o=o: dev.forward(o, []) for o in others))

    assert where(dev, f).device_pages == 7
    big = dev.create(long_prompt(dev, 900, salt=60))
    with pytest.raises(OutOfPages):
        dev.forward(big, [])
    rest(dev, f, big, *others)


def case_cancelled_moves_leave_all_as_it_was(dev: Driver) -> None:
    for tier in ("host", "disk", "device"):
        for salt in range(6):
            f = dev.create(long_prompt(dev, 600, salt=70 + salt))
            first = dev.forward(f, [])
            if tier == "device":
                move(dev, f, "host")
            job, q = dev.job()
            dev.submit(MoveJob(job, f, tier, Owner()))
            dev.cancel(job)
            done = q.get(timeout=60)
            assert isinstance(done, MoveDone) or isinstance(done.error, Interrupted)
            dev.check()
            assert same(dev.forward(f, []), first)
            rest(dev, f)


def case_files_that_go_while_they_move_leave_nothing(dev: Driver) -> None:
    for tier in ("host", "disk", "device"):
        f = dev.create(long_prompt(dev, 600, salt=80))
        dev.forward(f, [])
        if tier == "device":
            move(dev, f, "disk")
        job, q = dev.job()
        dev.submit(MoveJob(job, f, tier, Owner()))
        rest(dev, f)
        assert q.get(timeout=60).job == job


def case_a_file_that_is_cut_and_written_while_it_is_saved_is_right(dev: Driver) -> None:
    prompt = long_prompt(dev, 300, salt=90)
    f = dev.create(prompt)
    dev.forward(f, [])
    job, q = dev.job()
    dev.submit(SaveJob(job, f, Owner()))
    dev.truncate(f, 100)
    got = dev.forward(f, [9, 8, 7])

    saved = q.get(timeout=60)
    assert isinstance(saved, SaveDone) and saved.num_tokens in (100, 300)
    move(dev, f, "host")
    reference = dev.create([*prompt[:100], 9, 8, 7])
    assert same(got, dev.forward(reference, []))
    assert same(dev.forward(f, []), got)
    rest(dev, f, reference)
    for name in {p.segment for p in saved.pages}:
        (FOLDER / name).unlink()


def case_the_bell_is_still_when_nothing_moves(dev: Driver) -> None:
    f = dev.create(prompts(dev, 1)[0])
    dev.forward(f, [])
    move(dev, f, "host")

    assert not dev.host.device.tiers.mover._busy.is_set()
    rest(dev, f)
