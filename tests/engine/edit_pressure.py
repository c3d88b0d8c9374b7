"""Cases of edits in a cache of 32 pages (1,024 tokens): run by test_pressure.py in a process of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engine.driver import Driver
from tests.engine.pressure import after_steps, calm, counted
from tests.engine.pressure import engine_args as engine_args
from tests.engine.pruned import Pruned, concat, extract
from tests.engine.reference import long_prompt, together
from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import OutOfPages

SPANS = ((0, 8), (60, 180))


def source(dev: Driver, n: int, salt: int = 0) -> tuple[Ino, Pruned]:
    reference = Pruned()
    reference.add(long_prompt(dev, n, salt=salt))
    return dev.create(reference.tokens.copy()), reference


def gives(dev: Driver, f: Ino, want: Pruned) -> None:
    (d,) = dev.forward(f, [], top_k=5, keep="none")
    want.check(d)


def retried(call: Callable[[], None]) -> None:
    """As a program does that is told to."""
    while True:
        try:
            return call()
        except OutOfPages:
            continue


def case_an_edit_waits_for_pages_of_jobs_that_run(dev: Driver) -> None:
    src, reference = source(dev, 200)
    busy = dev.create(long_prompt(dev, 740, salt=30))
    surgery, waited = dev.host.device.surgery, []
    _, q = dev.start_generate(busy, 60)
    after_steps(dev, lambda: waited.append(surgery.is_waiting) or False, lambda: None)
    while q.empty():  # it has its pages
        dev.counters()

    f = dev.extract(src, *SPANS)

    calm(dev)
    assert any(waited)
    gives(dev, f, extract(reference, SPANS))
    dev.collect(busy, q)
    dev.drop(src, busy, f)


def case_edited_files_are_never_given_up_for_others(dev: Driver) -> None:
    edited: list[tuple[Ino, Pruned]] = []
    for i in range(3):
        src, reference = source(dev, 200, salt=i)
        edited.append((dev.extract(src, *SPANS, compact=bool(i % 2)), extract(reference, SPANS, bool(i % 2))))
        dev.drop(src)
    grew = counted(dev, "evicted")

    for i in range(6):  # much more than the rest of the cache
        other, reference = source(dev, 380, salt=20 + i)
        gives(dev, other, reference)
        if i % 2:
            dev.drop(other)

    assert grew()[0] > 0
    for f, want in edited:
        gives(dev, f, want)
        dev.drop(f)
    dev.clear()


def case_jobs_on_edited_files_are_parked_and_preempted_and_lose_nothing(dev: Driver) -> None:
    pairs = []
    for i in range(3):
        src, reference = source(dev, 200, salt=i)
        pairs.append((dev.extract(src, *SPANS), extract(reference, SPANS)))
        dev.drop(src)
    alone = []
    for f, want in pairs:
        g = dev.fork(f)
        alone.append(dev.generate(g, 300, start=want.following).tokens)
        dev.drop(g)
    grew = counted(dev, "parked", "preempted")

    got = together(*[lambda f=f, w=w: dev.generate(f, 300, start=w.following).tokens for f, w in pairs])

    assert got == alone
    parked, preempted = grew()
    assert parked > 0 and preempted > 0, (parked, preempted)
    dev.check()
    dev.drop(*[f for f, _ in pairs])


def case_a_job_that_needs_what_edited_files_hold_ends_with_enospc_and_they_stay(dev: Driver) -> None:
    src, reference = source(dev, 480)
    f, want = dev.extract(src, (3, 480)), extract(reference, ((3, 480),))
    dev.drop(src)
    g = dev.create(long_prompt(dev, 600, salt=9))

    with pytest.raises(OutOfPages):
        dev.forward(g, [])

    gives(dev, f, want)
    dev.check()
    dev.drop(f, g)


def case_an_edit_without_room_is_enospc_and_leaves_nothing(dev: Driver) -> None:
    src, reference = source(dev, 480)
    f = dev.extract(src, (3, 480))
    other = dev.extract(src, (100, 200))
    dev.drop(src)
    free = dev.counters()["pages_free"]

    with pytest.raises(OutOfPages) as info:
        dev.extract(f, (5, 470))

    assert info.value.retry_after_s
    assert dev.counters()["pages_free"] == free
    gives(dev, f, extract(reference, ((3, 480),)))
    gives(dev, other, extract(reference, ((100, 200),)))
    dev.check()
    dev.drop(f, other)


def case_sources_that_were_given_up_are_computed_again_for_an_edit(dev: Driver) -> None:
    (a, ra), (b, rb) = source(dev, 200), source(dev, 150, salt=4)
    dev.forward(a, [])
    dev.forward(b, [])
    dev.call_evict(a, b)

    f = dev.concat(a, b)

    gives(dev, f, concat([ra, rb]))
    dev.drop(a, b, f)


def case_many_edits_at_once_wait_for_each_others_pages(dev: Driver) -> None:
    pairs = [source(dev, 200, salt=i) for i in range(4)]

    def edit(i: int) -> None:
        src, reference = pairs[i % 4]
        spans = ((i, 20), (40 + i, 190))
        f = dev.extract(src, *spans, compact=bool(i % 2))
        gives(dev, f, extract(reference, spans, bool(i % 2)))
        dev.drop(f)

    together(*[lambda i=i: retried(lambda: edit(i)) for i in range(16)])

    dev.check()
    dev.drop(*[src for src, _ in pairs])
