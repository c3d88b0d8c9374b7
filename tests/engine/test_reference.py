"""The reference rule: what is computed through pages is what plain vLLM computes for the same tokens."""

from __future__ import annotations

import math

import pytest
import torch

from tests.counts import count, random_for
from tests.engine.conftest import TINY
from tests.engine.driver import ids, logprobs
from tests.engine.reference import (
    CLOSE,
    Ties,
    assert_close,
    best,
    decode,
    finish_plain,
    long_prompt,
    plain,
    prompts,
    same,
    start_plain,
    together,
    transformers_rows,
)  # fmt: skip
from vllm_symphony.abi.types import unpack_tokens

K = 5


def test_32_programs_that_decode_token_by_token_give_plain_vllms_tokens_and_logprobs(dev):
    texts, n = prompts(dev, 32), count(40, 200)
    references = [finish_plain(q) for q in [start_plain(dev, p, n, K) for p in texts]]
    ties = Ties()

    together(*[lambda p=p, r=r: decode(dev, p, r, ties, K) for p, r in zip(texts, references, strict=True)])

    assert ties.num_tokens == 32 * n
    ties.report()
    dev.check()


def test_plain_requests_beside_programs_give_what_they_give_alone(dev):
    texts, n = prompts(dev, 16), 30
    alone = [finish_plain(q) for q in [start_plain(dev, p, n, K) for p in texts]]
    ties = Ties()

    beside = [start_plain(dev, p, n, K) for p in texts[:8]]
    together(*[lambda p=p, r=r: decode(dev, p, r, ties, K) for p, r in zip(texts[8:], alone[8:], strict=True)])

    for q, reference in zip(beside, alone[:8], strict=True):
        assert finish_plain(q).tokens == reference.tokens
    ties.report()


def test_a_prompt_longer_than_a_step_is_computed_in_chunks(dev):
    prompt = long_prompt(dev, 1300)
    reference = plain(dev, prompt, 3, K)
    f = dev.create(domain="chunks")  # nothing to find in the prefix cache

    (d,) = dev.forward(f, prompt, top_k=K)

    assert_close(d, reference.tops[0])
    (d,) = dev.forward(f, [reference.tokens[0]], top_k=K)
    assert_close(d, reference.tops[1])
    dev.drop(f)


def test_all_positions_over_several_chunks_equal_single_steps(dev):
    prompt = long_prompt(dev, 1100, salt=3)
    f, g = dev.create(domain="a"), dev.create(domain="b")

    rows = dev.forward(f, prompt, outputs="all", top_k=K)

    assert [d.position for d in rows] == list(range(1100))
    at = 0
    for upto in (1, 2, 33, 64, 500, 511, 512, 513, 1024, 1100):
        (d,) = dev.forward(g, prompt[at:upto], top_k=K)
        same(d, rows[upto - 1])
        at = upto
    dev.drop(f, g)


def test_some_positions_give_the_same_rows_as_all(dev):
    prompt = long_prompt(dev, 70, salt=5)
    f, g, h = dev.create(), dev.create(), dev.create()
    every = dev.forward(f, prompt, outputs="all", top_k=3)

    some = dev.forward(g, prompt, outputs=(0, 31, 32, 40), top_k=3)
    none = dev.forward(h, prompt, outputs="none")

    assert none == () and len(some) == 4
    for d in some:
        same(d, every[d.position])
    (d,) = dev.forward(h, [], top_k=3)
    same(d, every[-1])
    dev.drop(f, g, h)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 96])
def test_an_empty_forward_gives_the_row_after_the_last_token(dev, length):
    prompt = long_prompt(dev, length, salt=length)
    f = dev.create()
    (first,) = dev.forward(f, prompt, top_k=K)

    (again,) = dev.forward(f, [], top_k=K)
    g = dev.fork(f)
    (forked,) = dev.forward(g, [], top_k=K)
    h = dev.create(prompt)
    (fresh,) = dev.forward(h, [], top_k=K)

    for d in (again, forked, fresh):
        same(d, first)
    dev.check()
    for file in (f, g, h):  # and the file goes on as if nothing had happened
        (d,) = dev.forward(file, [7], top_k=K)
        same(d, dev.forward(f, [], top_k=K)[0])
    dev.drop(f, g, h)


def test_forks_of_forks_diverge_and_each_equals_a_recompute(dev):
    rng = random_for("forks")
    root_tokens = long_prompt(dev, 45, salt=11)
    root = dev.create(root_tokens)
    files = {root: list(root_tokens)}

    for generation in range(4):
        for src in list(files):
            for _ in range(2):
                f = dev.fork(src)
                files[f] = list(files[src])
                more = [rng.randrange(3, 1000) for _ in range(rng.choice((1, 5, 19, 32)))]
                dev.forward(f, more, outputs="none")
                files[f] += more
        dev.check()
        if generation == 1:
            dev.drop(root)
            del files[root]
        if len(files) > 20:
            break

    for f, tokens in rng.sample(sorted(files.items()), 8):
        (d,) = dev.forward(f, [5], top_k=K)
        fresh = dev.create(domain=f"fresh {f}")
        (e,) = dev.forward(fresh, [*tokens, 5], top_k=K)
        same(d, e)
        dev.drop(fresh)
    dev.drop(*files)


@pytest.mark.parametrize("length", [0, 1, 20, 31, 32, 33, 63, 64, 65, 99])
def test_a_truncated_file_goes_on_like_a_fresh_one(dev, length):
    tokens = long_prompt(dev, 100, salt=17)
    f = dev.create(tokens)
    dev.forward(f, [9, 10], outputs="none")
    twin = dev.fork(f)

    dev.truncate(f, length)
    (d,) = dev.forward(f, [21, 22, 23], top_k=K)

    fresh = dev.create(domain="fresh")
    (e,) = dev.forward(fresh, [*tokens[:length], 21, 22, 23], top_k=K)
    same(d, e)
    (kept,) = dev.forward(twin, [11], top_k=K)  # the fork saw nothing of it
    other = dev.create(domain="other")
    same(kept, dev.forward(other, [*tokens, 9, 10, 11], top_k=K)[0])
    dev.check()
    dev.drop(f, twin, fresh, other)


def test_appended_tokens_are_computed_by_the_next_call(dev):
    tokens = long_prompt(dev, 90, salt=23)
    f = dev.create(tokens[:40])
    dev.forward(f, tokens[40:50], outputs="none")

    dev.append(f, tokens[50:80])
    rows = dev.forward(f, tokens[80:], outputs="all", top_k=K)

    g = dev.create(domain="x")
    for mine, theirs in zip(rows, dev.forward(g, tokens, outputs="all", top_k=K)[80:], strict=True):
        same(mine, theirs)
    dev.drop(f, g)


def test_a_prefix_is_shared_inside_a_domain_and_never_between_two(dev):
    tokens = long_prompt(dev, 200, salt=29)

    def used_by(domain: str) -> tuple[int, float]:
        free = dev.counters()["pages_free"]
        f = dev.create(domain=domain)
        dev.forward(f, tokens, outputs="last")
        return f, free - dev.counters()["pages_free"]

    first, n_first = used_by("ann")
    second, n_second = used_by("ann")
    third, n_third = used_by("bob")
    fourth, n_fourth = used_by("")

    assert (n_first, n_second, n_third, n_fourth) == (7, 1, 7, 7)  # 200 tokens on pages of 32: 6 full ones can be shared
    dev.drop(first, second, third, fourth)


def test_a_file_finds_what_a_plain_request_left_in_the_prefix_cache(dev):
    tokens = long_prompt(dev, 300, salt=31)
    plain(dev, tokens, 1)
    plain_free = dev.counters()["pages_free"]
    f = dev.create(tokens)
    steps = dev.counters()["steps"]

    (d,) = dev.forward(f, [], top_k=K)

    assert dev.counters()["steps"] == steps + 1
    assert plain_free - dev.counters()["pages_free"] == 10
    assert_close(d, plain(dev, tokens, 1, K).tops[0])
    dev.drop(f)


def test_positions_with_gaps_equal_transformers_with_these_positions(dev):
    tokens = long_prompt(dev, 120, salt=37)
    positions = [*range(20), *range(50, 75), *range(300, 355), *range(1900, 1920)]
    reference = transformers_rows(TINY, tokens, positions)
    f = dev.create(tokens[:10])  # a gap inside the second page, one at an append, one at a forward

    rows = [*dev.forward(f, tokens[10:20], start=10, outputs="all", top_k=K)]
    rows += dev.forward(f, tokens[20:45], start=50, outputs="all", top_k=K)
    dev.append(f, tokens[45:70], start=300)
    rows += dev.forward(f, tokens[70:100], start=325, outputs="all", top_k=K)
    rows += dev.forward(f, tokens[100:], start=1900, outputs="all", top_k=K)

    expected = torch.log_softmax(reference, -1)
    for d in rows:
        for token, logprob in zip(ids(d), logprobs(d), strict=True):
            assert abs(float(expected[d.position, token]) - logprob) < CLOSE
    dev.call_evict(f)  # a file with gaps is computed again with its gaps
    whole = torch.tensor(dev.row(f, 119))
    assert float((whole - reference[119]).abs().max()) < CLOSE
    dev.drop(f)


def test_a_gap_on_a_file_between_two_forwards_poisons_no_prefix(dev):
    tokens = long_prompt(dev, 128, salt=43)
    f, g, fresh = dev.create(domain="one"), dev.create(domain="one"), dev.create(domain="two")
    dev.forward(f, tokens[:40], outputs="none")

    dev.forward(f, tokens[40:100], start=700, outputs="none")  # the request of the first forward would go on, and publish
    (d,) = dev.forward(g, tokens, top_k=K)

    same(d, dev.forward(fresh, tokens, top_k=K)[0])
    dev.drop(f, g, fresh)


def test_a_file_whose_gap_was_truncated_goes_on_and_forks(dev):
    tokens = long_prompt(dev, 128, salt=41)
    f = dev.create(tokens[:100])
    dev.forward(f, [], outputs="last")

    dev.forward(f, [5, 6, 7], start=500, outputs="none")
    dev.truncate(f, 70)
    (d,) = dev.forward(f, tokens[70:], start=70, top_k=K)

    a, b = dev.fork(f, 100), dev.fork(f, 100)  # both fill the page that was filled while the file had a gap
    g = dev.create(domain="y")
    same(d, dev.forward(g, tokens, top_k=K)[0])
    for file in (a, b):
        same(dev.forward(file, tokens[100:], top_k=K)[0], d)
    dev.check()
    dev.drop(f, g, a, b)


def test_numbers_of_a_distribution_are_those_of_the_whole_row(dev):
    (prompt,) = prompts(dev, 1)
    f = dev.create(prompt)

    for temperature in (1.0, 0.7, 2.5):
        (d,) = dev.forward(f, [], top_k=64, temperature=temperature, entropy=True)
        row = torch.tensor(dev.row(f, d.position), dtype=torch.float64)

        logs = torch.log_softmax(row, -1)
        assert d.position == len(prompt) - 1
        assert d.logsumexp == pytest.approx(float(torch.logsumexp(row, -1)), abs=CLOSE)
        assert d.logsumexp_t == pytest.approx(float(torch.logsumexp(row / temperature, -1)), abs=CLOSE)
        assert d.temperature == temperature
        assert d.entropy == pytest.approx(float(-(logs.exp() * logs).sum()), abs=CLOSE)
        top = logs.topk(64)
        assert ids(d) == top.indices.tolist()
        assert logprobs(d) == pytest.approx(top.values.tolist(), abs=CLOSE)
    (d,) = dev.forward(f, [], top_k=0)
    assert d.ids == b"" and d.logprobs == b"" and math.isnan(d.entropy) and d.logsumexp != 0
    dev.drop(f)


def test_calls_that_ask_for_different_things_share_a_step(dev):
    texts = prompts(dev, 6)
    files = [dev.create() for _ in texts]
    want = [
        {"top_k": 1}, {"top_k": 20, "entropy": True}, {"outputs": "all", "top_k": 2, "keep": "none"}, {"outputs": "none"},
        {"top_k": 5, "temperature": 0.5}, {"outputs": (0, 2), "top_k": 4, "keep": (2,)},
    ]  # fmt: skip

    answers = together(*[lambda f=f, t=t, w=w: dev.forward(f, t, **w) for f, t, w in zip(files, texts, want, strict=True)])

    for text, w, answer in zip(texts, want, answers, strict=True):
        alone = dev.create(domain="alone")
        for mine, theirs in zip(answer, dev.forward(alone, text, **w), strict=True):
            same(mine, theirs)
            assert len(unpack_tokens(mine.ids)) == w["top_k"]
            assert mine.entropy == pytest.approx(theirs.entropy, abs=CLOSE, nan_ok=True)
            assert mine.logsumexp_t == pytest.approx(theirs.logsumexp_t, abs=CLOSE)
        dev.drop(alone)
    dev.drop(*files)


def test_forwards_reach_the_position_limit(dev):
    limit = dev.host.model.max_positions
    tokens = long_prompt(dev, limit, salt=47)
    f, g = dev.create(tokens[:-2]), dev.create(tokens)

    dev.forward(f, tokens[-2:-1], outputs="none")
    (last,) = dev.forward(f, tokens[-1:], top_k=K)

    same(last, dev.forward(f, [], top_k=K)[0])
    same(last, dev.forward(g, [], top_k=K)[0])
    dev.drop(f, g)


def test_more_files_than_requests_may_rest(dev):
    files = [dev.create() for _ in range(300)]
    first = [dev.start_forward(f, [7 + i % 90], top_k=1)[1] for i, f in enumerate(files)]
    rows = [q.get(timeout=60).distributions[0] for q in first]
    for f in files:
        dev.lengths[f] = 1

    second = [dev.start_forward(f, [best(d)], top_k=K)[1] for f, d in zip(files, rows, strict=True)]

    for i, q in enumerate(second):
        (d,) = q.get(timeout=60).distributions
        dev.lengths[files[i]] = 2
        if i % 30 == 0:
            fresh = dev.create(domain=f"rest {i}")
            same(d, dev.forward(fresh, [7 + i % 90, best(rows[i])], top_k=K)[0])
            dev.drop(fresh)
    dev.check()
    dev.drop(*files)


def test_greedy_by_hand_equals_generate(dev):
    (prompt,) = prompts(dev, 1)
    f, g = dev.create(prompt), dev.create(prompt)

    by_engine = dev.generate(g, 40)
    tokens = []
    (d,) = dev.forward(f, [], top_k=1)
    while len(tokens) < 40:
        tokens.append(best(d))
        (d,) = dev.forward(f, [tokens[-1]], top_k=1)

    assert tokens == by_engine.tokens
    dev.drop(f, g)
