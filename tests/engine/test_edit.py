"""Extract and concat: keys and values copied and rotated in the cache, against transformers over a cache that was cut by hand."""

from __future__ import annotations

import pytest

from tests.engine.driver import Driver, ids
from tests.engine.pruned import Pruned, concat, extract
from tests.engine.reference import long_prompt, plain, same, together
from vllm_symphony.abi.types import Ino, Sampler
from vllm_symphony.errors import Interrupted, NotSupported
from vllm_symphony.kernel.effect import JobFailed

K = 5
SPANS = ((0, 4), (40, 100), (131, 150))
MORE = [77, 301, 45, 612]


def source(dev: Driver, n: int = 160, salt: int = 0) -> tuple[Ino, Pruned]:
    prompt = long_prompt(dev, n, salt=salt)
    reference = Pruned()
    reference.add(prompt)
    return dev.create(prompt), reference


def goes_on_as(dev: Driver, f: Ino, reference: Pruned) -> None:
    """The file gives the reference's distributions: after its last token, and after more tokens, one by one and several."""
    (d,) = dev.forward(f, [], top_k=K, keep="none")
    reference.check(d)
    reference.add(MORE[:1])
    (d,) = dev.forward(f, MORE[:1], start=reference.positions[-1], top_k=K)
    reference.check(d)
    start, at = reference.following, len(reference.tokens)
    reference.add(MORE[1:])
    for i, d in enumerate(dev.forward(f, MORE[1:], start=start, outputs="all", top_k=K)):
        reference.check(d, at + i)


@pytest.mark.parametrize("compact", [False, True], ids=["keep", "compact"])
@pytest.mark.parametrize("spans", [SPANS, ((0, 64), (96, 160)), ((5, 6),), ((33, 160),), ((0, 31), (32, 33)), ((159, 160),)])
def test_an_extract_goes_on_as_a_pruned_cache_does(dev, spans, compact):
    src, reference = source(dev)

    f = dev.extract(src, *spans, compact=compact)

    goes_on_as(dev, f, extract(reference, spans, compact))
    dev.check()
    dev.drop(src, f)


def test_an_extract_is_not_what_its_tokens_give(dev):
    src, reference = source(dev)
    f = dev.extract(src, *SPANS)
    want = extract(reference, SPANS)
    bare = Pruned(want.tokens, want.positions)

    (d,) = dev.forward(f, [], top_k=K)

    want.check(d)
    assert (bare.row() - want.row())[ids(d)].abs().max() > 0.05
    dev.drop(src, f)


def test_an_extract_of_a_computed_file_shares_its_first_full_pages_and_computes_nothing(dev):
    src, reference = source(dev)
    dev.forward(src, [], outputs="none", keep="none")
    before, steps = dev.counters()["pages_free"], dev.counters()["engine_steps"]

    f = dev.extract(src, (0, 70), (100, 160))

    assert before - dev.counters()["pages_free"] == 3  # 129 tokens with KV are 5 pages; 2 of them are the source's
    assert dev.counters()["engine_steps"] == steps
    goes_on_as(dev, f, extract(reference, ((0, 70), (100, 160))))
    (d,) = dev.forward(src, [], top_k=K)
    reference.check(d)
    dev.drop(src, f)


def test_extracts_of_extracts_and_of_files_with_gaps(dev):
    src, reference = source(dev, 100)
    dev.append(src, MORE * 12, start=300)
    reference.add(MORE * 12, 300)

    kept = dev.extract(src, (2, 30), (80, 140))
    packed = dev.extract(kept, (1, 50), (60, 80), compact=True)
    again = dev.extract(packed, (10, 60), compact=True)

    reference = extract(reference, ((2, 30), (80, 140)))
    goes_on_as(dev, kept, reference.fork())
    reference = extract(reference, ((1, 50), (60, 80)), True)
    goes_on_as(dev, packed, reference.fork())
    goes_on_as(dev, again, extract(reference, ((10, 60),), True))
    dev.drop(src, kept, packed, again)


def test_concat_by_rotation_goes_on_as_rotated_caches_do(dev):
    (a, ra), (b, rb), (c, rc) = source(dev, 70), source(dev, 50, salt=3), source(dev, 33, salt=9)
    dev.append(b, MORE, start=90)
    rb.add(MORE, 90)

    f = dev.concat(a, b, c)

    goes_on_as(dev, f, concat([ra, rb, rc]))
    dev.check()
    dev.drop(a, b, c, f)


def test_concat_of_edited_files(dev):
    (a, ra), (b, rb) = source(dev, 90), source(dev, 80, salt=5)
    x, y = dev.extract(a, (0, 20), (40, 90)), dev.extract(b, (30, 70), compact=True)

    f = dev.concat(x, y, x)

    rx, ry = extract(ra, ((0, 20), (40, 90))), extract(rb, ((30, 70),), True)
    goes_on_as(dev, f, concat([rx, ry, rx]))
    dev.drop(a, b, x, y, f)


def test_concat_that_computes_gives_plain_vllms_tokens(dev):
    first, second = long_prompt(dev, 50), long_prompt(dev, 40, salt=7)
    a = dev.create(first)
    f = dev.fork(a)
    dev.append(f, second)

    assert dev.generate(f, 20).tokens == plain(dev, [*first, *second], 20).tokens
    dev.drop(a, f)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 70, 83, 84, 88])
def test_an_edited_file_is_truncated_anywhere_and_goes_on(dev, length):
    src, reference = source(dev)
    f, want = dev.extract(src, (3, 60), (100, 127)), extract(reference, ((3, 60), (100, 127)))
    dev.forward(f, MORE, start=want.following, outputs="none", keep="none")
    want.add(MORE)

    part = dev.fork(f, length)
    dev.truncate(f, length)
    want.cut(length)

    goes_on_as(dev, f, want.fork())
    goes_on_as(dev, part, want)
    dev.drop(src, f, part)


def test_however_an_edited_file_is_asked_it_gives_one_answer(dev):
    src, _ = source(dev)
    f = dev.extract(src, *SPANS)
    start = 150
    looked, straight, generated = dev.fork(f), dev.fork(f), dev.fork(f)

    (a,) = dev.forward(looked, [], top_k=K)
    (b,) = dev.forward(looked, MORE[:1], start=start, top_k=K)
    (c,) = dev.forward(straight, MORE[:1], start=start, top_k=K)

    same(b, c)
    tokens = dev.generate(generated, 3, start=start).tokens
    assert tokens[0] == ids(a)[0]
    assert dev.sample(f, len(extract_tokens()) - 1, Sampler())[0] == [ids(a)[0]]
    (d,) = dev.forward(looked, [], top_k=K)
    same(d, b)
    dev.drop(src, f, looked, straight, generated)


def extract_tokens() -> list[int]:
    return [i for start, stop in SPANS for i in range(start, stop)]


def test_memory_that_is_short_never_takes_the_fixed_part(dev):
    src, reference = source(dev)
    f, want = dev.extract(src, *SPANS, compact=True), extract(reference, SPANS, True)
    dev.forward(f, MORE * 20, start=want.following, outputs="none", keep="none")
    want.add(MORE * 20)

    dev.call_evict(f, src)

    assert dev.host.residency(f).frontier == len(extract_tokens()) - 1
    (d,) = dev.forward(f, [], top_k=K)
    want.check(d)
    dev.drop(src, f)


def test_a_fork_of_an_edited_file_that_is_written_has_all_that_cannot_be_computed(dev):
    src, reference = source(dev)
    f, want = dev.extract(src, (0, 10), (50, 90)), extract(reference, ((0, 10), (50, 90)))
    _, q = dev.start_generate(f, 200, start=want.following)
    forks = [dev.fork(f, n) for n in (5, 30, 49, 50)]

    for fork, n in zip(forks, (5, 30, 49, 50), strict=True):
        goes_on_as(dev, fork, want.fork(n))

    g = dev.collect(f, q)
    want.add(g.tokens)
    (d,) = dev.forward(f, [], top_k=K)
    want.check(d)
    dev.drop(src, f, *forks)


def test_the_source_may_change_and_go_while_it_is_extracted(dev):
    src, reference = source(dev, 600)

    _, f, q = dev.start_extract(src, (0, 40), (500, 590))
    dev.truncate(src, 20)
    dev.append(src, MORE)
    dev.drop(src)

    goes_on_as(dev, dev.edited(f, q), extract(reference, ((0, 40), (500, 590))))
    dev.drop(f)


def test_a_cancelled_edit_leaves_nothing(dev):
    (a, _), (b, _) = source(dev, 600), source(dev, 500, salt=4)
    jobs = [dev.start_extract(a, (0, 40), (500, 590)), dev.start_concat(a, b)]

    for job, _, _ in jobs:
        dev.cancel(job)

    for _, _, q in jobs:
        done = q.get(timeout=60)
        assert isinstance(done, JobFailed) and isinstance(done.error, Interrupted)
    assert not dev.host.device.surgery.edits
    dev.check()
    dev.drop(a, b)


def test_many_edits_beside_decoding_programs(dev):
    pairs = [source(dev, 120, salt=i) for i in range(4)]

    def edit(i: int) -> None:
        src, reference = pairs[i % 4]
        spans = ((i, 40), (50 + i, 110))
        f = dev.extract(src, *spans, compact=bool(i % 2))
        goes_on_as(dev, f, extract(reference, spans, bool(i % 2)))
        dev.drop(f)

    def decode(i: int) -> list[int]:
        f = dev.create(pairs[i][1].tokens[:60])
        tokens = dev.generate(f, 40).tokens
        dev.drop(f)
        return tokens

    alone = [decode(i) for i in range(4)]
    results = together(*[lambda i=i: edit(i) for i in range(12)], *[lambda i=i: decode(i) for i in range(4)])

    assert results[12:] == alone
    dev.check()
    dev.drop(*[src for src, _ in pairs])


def test_what_the_layout_does_not_allow_is_refused_with_the_reason(dev):
    src, _ = source(dev, 40)
    surgery = dev.host.device.surgery
    refusal, surgery.refusal = surgery.refusal, "its cache is of another kind"

    try:
        with pytest.raises(NotSupported, match="extract is not possible here: its cache is of another kind"):
            dev.extract(src, (0, 4), (8, 20))
    finally:
        surgery.refusal = refusal
    dev.drop(src)


def test_pages_of_one_domain_are_not_found_in_another(dev):
    prompt = long_prompt(dev, 200, salt=50)

    def found(domain: str, f: Ino | None = None) -> float:
        before = dev.counters()["found_tokens"]
        g = dev.create(prompt, domain=domain) if f is None else f
        dev.forward(g, [], outputs="last", keep="none")
        dev.drop(g)
        return dev.counters()["found_tokens"] - before

    mine = dev.create(prompt, domain="ann")
    dev.forward(mine, [], outputs="last", keep="none")
    theirs = dev.fork(mine, domain="ben")  # as a reader of the file: pages shared, nothing published
    dev.append(theirs, MORE * 20)
    dev.forward(theirs, [], outputs="last", keep="none")

    assert found("ann") == 192
    for token in MORE:  # goes on with pages that it holds: nothing was found
        before = dev.counters()["found_tokens"]
        dev.forward(mine, [token])
        assert dev.counters()["found_tokens"] == before
    assert found("ben") == 0
    assert found("ben") == 192
    dev.drop(mine, theirs)


def test_the_fingerprint_names_the_model_and_its_layout(dev):
    model = dev.host.model

    assert len(model.fingerprint) == 32
    assert model.page_bytes == 4 * 2 * 32 * 64 * 4  # layers, K and V, slots, elements, float32
    assert {"extract", "compact", "rotate"} <= set(model.capabilities)
