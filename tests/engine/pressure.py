"""Cases of a cache of 32 pages (1,024 tokens): run by test_pressure.py in a process of their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.counts import FULL, count, random_for
from tests.engine.conftest import tiny_args
from tests.engine.driver import Driver
from tests.engine.reference import best, finish_plain, long_prompt, plain, prompts, start_plain, together
from vllm_symphony.abi.types import Sampler
from vllm_symphony.errors import Interrupted, OutOfPages, SymphonyError
from vllm_symphony.kernel.effect import CancelJob, DropFile, ForkFile, JobFailed

NUM_PAGES = 32


def engine_args() -> Any:
    return tiny_args(num_gpu_blocks_override=NUM_PAGES + 1, max_model_len=1024, max_num_batched_tokens=128, max_num_seqs=16)


def alone(dev: Driver, prompt: list[int], n: int) -> list[int]:
    """The tokens that a generate gives when nobody else is there."""
    f = dev.create(prompt, domain="alone")
    tokens = dev.generate(f, n).tokens
    dev.drop(f)
    return tokens


def counted(dev: Driver, *what: str) -> Callable[[], list[float]]:
    """How much the counters grew since."""
    before = dev.counters()

    def growth() -> list[float]:
        now = dev.counters()
        return [now[w] - before[w] for w in what]

    return growth


def after_steps(dev: Driver, ready: Callable[[], bool], act: Callable[[], Any]) -> list[Any]:
    """On the engine thread, after the first step at which `ready()`: `act()`, once. Returns the list that will hold its result."""
    scheduler = dev.host.scheduler
    took: list[Any] = []

    def watch(output: Any, result: Any) -> Any:
        outputs = type(scheduler).update_from_output(scheduler, output, result)
        if not took and ready():
            took.append(act())
        return outputs

    scheduler.update_from_output = watch
    return took


def calm(dev: Driver) -> None:
    dev.host.scheduler.__dict__.pop("update_from_output", None)


def request_of(dev: Driver, job: int) -> Any:
    found = dev.host.device.by_id.get(job)
    return None if found is None else found.request


def ended_by(q: Any) -> Any:
    """The last completion of a job."""
    while True:
        c = q.get(timeout=60)
        if type(c).__name__ != "GenerateTokens":
            return c


def case_jobs_wait_for_pages_and_give_what_they_give_alone(dev: Driver) -> None:
    texts, n = [long_prompt(dev, 200, salt=100 + 7 * i) for i in range(count(6, 10))], count(40, 60)
    expected = [alone(dev, t, n) for t in texts]
    files = [dev.create(t) for t in texts]
    held = []
    after_steps(dev, lambda: held.append(dev.host.scheduler.num_held()) or False, lambda: None)

    got = together(*[lambda f=f: dev.generate(f, n).tokens for f in files])

    calm(dev)
    assert got == expected
    assert max(held) > 0, "no job ever waited"
    dev.check()
    dev.drop(*files)


def case_a_job_that_waits_for_pages_says_how_many(dev: Driver) -> None:
    first, second = (dev.create(long_prompt(dev, n, salt=7 * n)) for n in (900, 300))
    q = dev.start_generate(first, 60, ignore_eos=True)[1]
    job, later = dev.start_generate(second, 5, ignore_eos=True)

    pool = dev.host.device.table.pool

    said = after_steps(
        dev,
        lambda: dev.host.scheduler.num_held() > 0 and pool.get_num_free_blocks() < 10,
        lambda: (*dev.host.job_state(job), pool.get_num_free_blocks()),
    )
    ended_by(q)
    ended_by(later)

    calm(dev)
    ((cause, detail, free),) = said
    assert (cause, detail) == ("pages", f"needs 10 pages, {free} are free")
    dev.drop(first, second)


def outgrowing(dev: Driver) -> tuple[list[list[int]], int]:
    """Prompts that fit beside each other, and how many tokens each gets: then not all fit."""
    return (prompts(dev, 4), 400) if FULL else ([long_prompt(dev, 220, salt=40 + 9 * i) for i in range(3)], 170)


def case_jobs_that_outgrow_the_cache_are_parked_and_preempted_and_lose_nothing(dev: Driver) -> None:
    texts, n = outgrowing(dev)
    expected = [alone(dev, t, n) for t in texts]
    grew = counted(dev, "parked", "preempted")
    files = [dev.create(t) for t in texts]

    got = together(*[lambda f=f: dev.generate(f, n).tokens for f in files])

    parked, preempted = grew()
    assert parked > 0 and preempted > 0, (parked, preempted)
    assert got == expected
    dev.check()
    dev.drop(*files)


def case_seeded_and_penalised_jobs_survive_preemption(dev: Driver) -> None:
    sampler = Sampler(temperature=1.1, seed=5, presence_penalty=0.5, repetition_penalty=1.1)
    texts, n = outgrowing(dev)
    expected = []
    for t in texts:
        f = dev.create(t, domain="alone")
        expected.append(dev.generate(f, n, sampler=sampler).tokens)
        dev.drop(f)
    grew = counted(dev, "preempted")
    files = [dev.create(t) for t in texts]

    got = together(*[lambda f=f: dev.generate(f, n, sampler=sampler).tokens for f in files])

    assert grew()[0] > 0
    assert got == expected
    dev.drop(*files)


def case_jobs_that_each_need_60_percent_finish_or_get_enospc_with_their_tokens(dev: Driver) -> None:
    texts = [long_prompt(dev, 580, salt=300 + 11 * i) for i in range(count(8, 16))]
    expected = [alone(dev, t, 40) for t in texts]
    files = [dev.create(t) for t in texts]

    def run(i: int) -> tuple[bool, list[int]]:
        _, q = dev.start_generate(files[i], 40)
        tokens: list[int] = []
        while True:
            c = q.get(timeout=60)
            if hasattr(c, "tokens"):
                tokens += c.tokens
            elif isinstance(c, JobFailed):
                assert isinstance(c.error, OutOfPages)
                return False, tokens
            else:
                return True, tokens

    got = together(*[lambda i=i: run(i) for i in range(len(texts))])

    for i, (finished, tokens) in enumerate(got):
        assert tokens == expected[i][: len(tokens)]
        assert not finished or len(tokens) == 40
        assert dev.call(lambda i=i: len(dev.host.device.table.files[files[i]].tokens)) == 580 + len(tokens)
    print(f"{sum(done for done, _ in got)} of {len(texts)} finished")
    assert sum(done for done, _ in got) >= len(texts) // 2
    dev.check()
    dev.drop(*files)


def case_token_by_token_programs_under_pressure_equal_plain_vllm(dev: Driver) -> None:
    texts = [long_prompt(dev, 90, salt=500 + 5 * i) for i in range(14)]
    references = [plain(dev, t, 50, None).tokens for t in texts]
    grew = counted(dev, "evicted")

    def begin(i: int) -> int:
        return best(dev.forward(files[i], texts[i], top_k=1)[0])

    def run(i: int) -> list[int]:
        tokens = [firsts[i]]
        while len(tokens) < 50:
            (d,) = dev.forward(files[i], [tokens[-1]], top_k=1)
            tokens.append(best(d))
        dev.drop(files[i])
        return tokens

    files = [dev.create() for _ in texts]
    firsts = together(*[lambda i=i: begin(i) for i in range(14)])  # 42 pages: not all files can keep theirs
    got = together(*[lambda i=i: run(i) for i in range(14)])

    assert grew()[0] > 0, "no file was ever evicted"
    assert got == references


def case_plain_requests_beside_files_under_pressure_give_what_they_give_alone(dev: Driver) -> None:
    texts = [long_prompt(dev, 150, salt=700 + 5 * i) for i in range(8)]
    references = [plain(dev, t, 60, None).tokens for t in texts]
    expected = [alone(dev, t, 60) for t in texts[4:]]
    files = [dev.create(t) for t in texts[4:]]

    beside = [start_plain(dev, t, 60, None) for t in texts[:4]]
    got = together(*[lambda f=f: dev.generate(f, 60).tokens for f in files])

    assert [finish_plain(q).tokens for q in beside] == references[:4]
    assert got == expected
    dev.drop(*files)


def case_a_job_larger_than_the_cache_gets_enospc_at_once(dev: Driver) -> None:
    f = dev.create(long_prompt(dev, 30, salt=1))
    expected = dev.forward(f, [])[0]
    steps = dev.counters()["steps"]

    big = dev.create(long_prompt(dev, 1200, salt=3))
    calls = [
        lambda: dev.forward(f, long_prompt(dev, 1024, salt=2)), lambda: dev.forward(big, []), lambda: dev.row(big, 1100),
        lambda: dev.generate(big, 1), lambda: dev.sample(big, 1199, Sampler()),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(OutOfPages):
            call()
    dev.drop(big)

    assert dev.counters()["steps"] == steps
    assert dev.forward(f, [])[0].ids == expected.ids
    dev.drop(f)


def case_a_generate_that_grows_past_the_cache_ends_with_enospc_and_keeps_its_tokens(dev: Driver) -> None:
    pool = dev.host.device.table.pool
    taken = dev.call(lambda: pool.get_new_blocks(10))  # 22 pages are left, 704 tokens
    prompt = long_prompt(dev, 690, salt=4)
    f = dev.create(prompt)
    _, q = dev.start_generate(f, 100)
    tokens: list[int] = []
    while hasattr(c := q.get(timeout=60), "tokens"):
        tokens += c.tokens
    dev.call(lambda: pool.free_blocks(taken))

    assert isinstance(c, JobFailed) and isinstance(c.error, OutOfPages)
    assert len(tokens) == 704 - 690 + 1  # the last one has no page and needs none
    dev.lengths[f] += len(tokens)
    dev.truncate(f, 695)
    assert dev.generate(f, 10).tokens == tokens[5:15]
    dev.drop(f)


def case_two_forks_share_a_cache_that_holds_not_both(dev: Driver) -> None:
    prompt = long_prompt(dev, 980, salt=14)
    expected = alone(dev, prompt, 40)
    f = dev.create(prompt)
    dev.forward(f, [], outputs="none")
    g = dev.fork(f)

    assert together(lambda: dev.generate(f, 40).tokens, lambda: dev.generate(g, 40).tokens) == [expected, expected]
    dev.drop(f, g)


def case_a_file_that_fills_the_cache_gives_its_last_row(dev: Driver) -> None:
    f = dev.create(long_prompt(dev, 32 * 31 + 1, salt=5))  # the last page holds one token
    first = dev.forward(f, [])[0]

    for _ in range(3):
        again = dev.forward(f, [])[0]

    assert again.ids == first.ids
    dev.drop(f)


def case_a_fork_that_fills_the_cache_with_its_idle_source_needs_no_page_more(dev: Driver) -> None:
    f = dev.create(long_prompt(dev, 32 * 31 + 1, salt=6))
    first = dev.forward(f, [])[0]
    g = dev.fork(f)

    again = dev.forward(g, [])[0]  # its last page is shared until the source gives its own up

    assert again.ids == first.ids
    dev.drop(f, g)


def case_evicted_files_come_back_right(dev: Driver) -> None:
    texts = [long_prompt(dev, 300, salt=900 + 3 * i) for i in range(6)]
    expected = [alone(dev, t, 8) for t in texts]
    grew = counted(dev, "evicted")
    files = [dev.create(t) for t in texts]

    for f in files:
        dev.forward(f, [], outputs="none")
    forks = [dev.fork(f) for f in files]
    got = [dev.generate(f, 8).tokens for f in files]
    forked = [dev.generate(f, 8).tokens for f in reversed(forks)]

    assert got == expected and forked[::-1] == expected
    assert grew()[0] > 0
    dev.check()
    dev.drop(*files, *forks)


def case_rows_survive_eviction_and_are_computed_again_under_pressure(dev: Driver) -> None:
    texts = [long_prompt(dev, 400, salt=1000 + 3 * i) for i in range(4)]
    files = [dev.create(t) for t in texts]
    rows = [dev.row(f, 200) for f in files]  # never kept: computed on forks

    again = together(*[lambda f=f: dev.row(f, 200) for f in files])

    for a, b in zip(rows, again, strict=True):
        assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 1e-4
    dev.drop(*files)


def case_a_large_old_job_is_not_starved_by_small_young_ones(dev: Driver) -> None:
    big = dev.create(long_prompt(dev, 900, salt=6))
    done: list[float] = []
    began = time.monotonic()
    small = [long_prompt(dev, 100, salt=1200 + i) for i in range(6)]
    running = dev.create(small[0])
    _, busy = dev.start_generate(running, 60)

    def stream(i: int) -> int:
        n = 0
        while not done and time.monotonic() - began < 40:
            f = dev.create(small[i])
            dev.generate(f, 25)
            dev.drop(f)
            n += 1
        return n

    def large() -> None:
        dev.generate(big, 10)
        done.append(time.monotonic() - began)

    together(large, *[lambda i=i: stream(i) for i in range(6)])

    assert done[0] < 20, f"the large job took {done[0]:.1f} s"
    ended_by(busy)
    dev.drop(big, running)


# ---- cancelling and the like, in every state


def case_cancel_of_a_running_generate_keeps_what_was_delivered(dev: Driver) -> None:
    prompt = prompts(dev, 1)[0]
    expected = alone(dev, prompt, 60)
    f = dev.create(prompt)
    files = dev.host.device.table.files
    job = [0]
    after_steps(
        dev, lambda: f in files and len(files[f].tokens) >= len(prompt) + 10, lambda: dev.host.device.mail.append(CancelJob(job[0]))
    )
    job[0], q = dev.start_generate(f, 500)

    tokens: list[int] = []
    while hasattr(c := q.get(timeout=60), "tokens"):
        tokens += c.tokens
    calm(dev)

    assert isinstance(c, JobFailed) and isinstance(c.error, Interrupted)
    assert tokens == expected[: len(tokens)] and len(tokens) >= 10
    dev.lengths[f] += len(tokens)
    dev.truncate(f, len(prompt) + 4)
    assert dev.generate(f, 10).tokens == expected[4:14]
    dev.drop(f)


def case_cancel_between_the_chunks_of_a_prefill_leaves_the_file_as_it_was(dev: Driver) -> None:
    prompt, more = long_prompt(dev, 50, salt=7), long_prompt(dev, 700, salt=8)
    f = dev.create(prompt)
    first = dev.forward(f, [])[0]
    job = [0]
    half_way = lambda: (r := request_of(dev, job[0])) is not None and 200 < r.num_computed_tokens < 600  # noqa: E731
    fired = after_steps(dev, half_way, lambda: dev.host.device.mail.append(CancelJob(job[0])))
    job[0], q = dev.start_forward(f, more, outputs="all", keep="all")

    c = ended_by(q)
    calm(dev)

    assert fired and isinstance(c, JobFailed) and isinstance(c.error, Interrupted)
    assert dev.call(lambda: len(dev.host.device.table.files[f].tokens)) == 50
    assert dev.forward(f, [])[0].ids == first.ids
    dev.drop(f)


def case_cancel_of_held_and_parked_jobs(dev: Driver) -> None:
    texts = prompts(dev, 4)
    files = [dev.create(t) for t in texts]
    scheduler, device = dev.host.scheduler, dev.host.device
    victims: list[int] = []

    def cancel_parked() -> int:
        request = next(iter(scheduler.parked))
        victims.append(device.jobs[request.request_id].id)
        device.mail.append(CancelJob(victims[0]))
        return victims[0]

    fired = after_steps(dev, lambda: bool(scheduler.parked), cancel_parked)
    jobs = dict(dev.start_generate(f, 440) for f in files)
    held = dev.create(long_prompt(dev, 1000, salt=9))
    held_job, held_q = dev.start_generate(held, 5)
    dev.call(lambda: None)
    dev.cancel(held_job)

    assert isinstance(ended_by(held_q), JobFailed)
    ends = {j: ended_by(q) for j, q in jobs.items()}
    calm(dev)
    assert fired, "nothing was ever parked"
    assert {j for j, c in ends.items() if isinstance(c, JobFailed)} == set(victims)
    dev.check()
    dev.drop(held, *files)


def case_drop_of_a_file_whose_job_runs_frees_it(dev: Driver) -> None:
    prompt = prompts(dev, 1)[0]
    f = dev.create(prompt)
    files = dev.host.device.table.files
    runs = lambda: f in files and len(files[f].tokens) > len(prompt) + 5  # noqa: E731
    after_steps(dev, runs, lambda: dev.host.device.mail.append(DropFile(f)))
    _, q = dev.start_generate(f, 400)

    assert isinstance(ended_by(q), JobFailed)
    calm(dev)


def case_fork_while_the_source_generates(dev: Driver) -> None:
    prompt = prompts(dev, 2)[1]
    expected = alone(dev, prompt, 120)
    f = dev.create(prompt)
    files = dev.host.device.table.files
    fork = next(dev.inos)

    def do_fork() -> int:
        n = len(files[f].tokens)
        dev.host.device.mail.append(ForkFile(f, fork, n))
        return n

    at = after_steps(dev, lambda: f in files and len(files[f].tokens) >= len(prompt) + 45, do_fork)
    whole = dev.generate(f, 100).tokens
    calm(dev)

    dev.lengths[fork] = at[0]
    dev.check()
    assert whole == expected[:100]
    n = at[0] - len(prompt)
    assert dev.generate(fork, 20).tokens == expected[n : n + 20]
    dev.drop(f, fork)


def case_fork_of_a_forward_between_its_chunks(dev: Driver) -> None:
    more = long_prompt(dev, 600, salt=10)
    f = dev.create(more[:40])
    fork = next(dev.inos)
    job = [0]
    half_way = lambda: (r := request_of(dev, job[0])) is not None and r.num_computed_tokens > 200  # noqa: E731
    fired = after_steps(dev, half_way, lambda: dev.host.device.mail.append(ForkFile(f, fork, 40)))
    job[0], q = dev.start_forward(f, more[40:])
    ended_by(q)
    calm(dev)
    assert fired
    dev.lengths[f], dev.lengths[fork] = 600, 40

    (a,) = dev.forward(fork, more[40:])
    (b,) = dev.forward(f, [])

    assert a.ids == b.ids
    dev.drop(f, fork)


def case_random_cancels_drops_and_forks_leave_nothing(dev: Driver) -> None:
    rng = random_for("pressure")
    for _ in range(count(4, 60)):
        files = [dev.create(long_prompt(dev, rng.randrange(1, 500), salt=rng.randrange(10**6))) for _ in range(6)]
        jobs = []
        for f in files:
            kind = rng.randrange(3)
            if kind == 0:
                jobs.append(dev.start_generate(f, rng.randrange(1, 120)))
            elif kind == 1:
                jobs.append(dev.start_forward(f, long_prompt(dev, rng.randrange(1, 300), salt=f), outputs="all", keep="all"))
            else:
                jobs.append(dev.start_forward(f, [], keep="last"))
        for job, _ in rng.sample(jobs, 3):
            for _ in range(rng.randrange(4)):
                dev.call(lambda: None)
            dev.cancel(job)
            if rng.random() < 0.3:
                files.append(dev.fork(files[0], 1))
        for _, q in jobs:
            c = ended_by(q)
            assert not isinstance(c, JobFailed) or isinstance(c.error, SymphonyError)
        dev.check()
        dev.drop(*files)
        dev.assert_nothing_left()


# ---- rest


def steps_in(dev: Driver, seconds: float) -> float:
    before = dev.call(lambda: dev.host.scheduler.num_steps)
    time.sleep(seconds)  # nothing is awaited: that nothing happens is the claim
    return dev.call(lambda: dev.host.scheduler.num_steps) - before


def case_an_idle_engine_makes_no_step(dev: Driver) -> None:
    f = dev.create(prompts(dev, 1)[0])
    dev.generate(f, 5)
    dev.forward(f, [5])
    steps_in(dev, 0.2)

    assert steps_in(dev, 1.0) == 0
    dev.drop(f)


def case_the_loop_sleeps_while_a_job_waits_for_room(dev: Driver) -> None:
    old = dev.create(long_prompt(dev, 900, salt=12))
    dev.forward(old, [], outputs="none")
    began = time.monotonic()
    young = dev.create(long_prompt(dev, 600, salt=13))
    steps = dev.call(lambda: dev.host.scheduler.num_steps)

    _, q = dev.start_generate(young, 3)  # the older file keeps its pages until nobody has used it for a while
    assert not isinstance(ended_by(q), JobFailed)

    assert time.monotonic() - began < 5
    assert dev.call(lambda: dev.host.scheduler.num_steps) - steps < 20
    dev.drop(old, young)
