"""`sample` draws from the law that its rules describe, and the program's own draws are the same draws."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from tests.counts import count, seed_for
from tests.engine.driver import Driver, ids, logprobs
from tests.engine.reference import CLOSE, prompts, together
from vllm_symphony.abi.draw import uniform
from vllm_symphony.abi.types import Sampler, pack_tokens, unpack_floats, unpack_tokens
from vllm_symphony.kernel.effect import CancelJob, DropFile, JobFailed, Owner, RowJob, TruncateFile
from vllm_symphony.lip.local import support

DRAWS = count(4_000, 100_000)
RULES = {
    "temperature": Sampler(temperature=1.0),
    "hot": Sampler(temperature=2.2),
    "cold": Sampler(temperature=0.4),
    "top_k": Sampler(temperature=1.5, top_k=7),
    "top_p": Sampler(temperature=1.5, top_p=0.7),
    "min_p": Sampler(temperature=1.8, min_p=0.05),
    "k_p_min": Sampler(temperature=1.7, top_k=30, top_p=0.9, min_p=0.02),
    "allowed": Sampler(temperature=2.0, allowed=pack_tokens(range(100, 160))),
    "bias": Sampler(temperature=1.4, logit_bias={40: 6.0, 41: -6.0, 500: 9.0}),
    "presence": Sampler(temperature=1.5, presence_penalty=1.2),
    "frequency": Sampler(temperature=1.5, frequency_penalty=0.7),
    "repetition": Sampler(temperature=1.5, repetition_penalty=1.4),
    "all": Sampler(
        temperature=1.6, top_k=60, top_p=0.95, min_p=0.005, presence_penalty=0.3, frequency_penalty=0.3, repetition_penalty=1.2,
        logit_bias={40: 3.0}, allowed=pack_tokens(range(800)),
    ),
}  # fmt: skip


def law(row: torch.Tensor, s: Sampler, tokens: list[int], penalty_from: int) -> torch.Tensor:
    """The probabilities that the rules describe, written down again from vLLM's documentation, in float64."""
    logits = row.double().clone()
    if s.allowed is not None:
        outside = torch.ones_like(logits, dtype=torch.bool)
        outside[unpack_tokens(s.allowed)] = False
        logits[outside] = -math.inf
    for token, bias in (s.logit_bias or {}).items():
        logits[token] += bias
    for t in set(tokens):
        logits[t] = logits[t] / s.repetition_penalty if logits[t] > 0 else logits[t] * s.repetition_penalty
    for t, n in Counter(tokens[penalty_from:]).items():
        logits[t] -= s.frequency_penalty * n + s.presence_penalty
    probs = (logits / s.temperature).softmax(-1)
    probs[probs < s.min_p * probs.max()] = 0
    if s.top_k:
        probs[probs < probs.topk(s.top_k).values[-1]] = 0
    probs /= probs.sum()
    if s.top_p < 1:
        order = probs.argsort(descending=True)
        better = probs[order].cumsum(0) - probs[order]
        probs[order[better >= s.top_p]] = 0
    return probs / probs.sum()


def chi_square_fits(drawn: list[int], probs: torch.Tensor) -> bool:
    """Pearson's test at 5 sigma; tokens that are expected less than 8 times are counted together."""
    n = len(drawn)
    counts = Counter(drawn)
    assert all(float(probs[t]) > 0 for t in counts), "a token was drawn that the rules exclude"
    statistic, cells, rest_expected, rest_seen = 0.0, 0, 0.0, 0
    for t, p in enumerate(probs.tolist()):
        expected = n * p
        if expected >= 8:
            statistic += (counts[t] - expected) ** 2 / expected
            cells += 1
        else:
            rest_expected += expected
            rest_seen += counts[t]
    if rest_expected >= 8:
        statistic += (rest_seen - rest_expected) ** 2 / rest_expected
        cells += 1
    freedom = cells - 1
    return freedom < 1 or statistic < freedom + 5 * math.sqrt(2 * freedom) + 10


@pytest.fixture
def opened(dev: Driver):
    """A file after a greedy stretch, so that penalties have something to count: (ino, tokens, length of the prompt)."""
    prompt = prompts(dev, 2)[1]
    f = dev.create(prompt)
    tokens = prompt + dev.generate(f, 20).tokens
    dev.forward(f, [])
    yield f, tokens, len(prompt)
    dev.drop(f)


@pytest.mark.parametrize("rule", RULES)
def test_draws_have_the_law_of_their_rule(dev, opened, rule):
    f, tokens, base = opened
    sampler = RULES[rule]
    at = len(tokens) - 1
    row = torch.tensor(dev.row(f, at))
    seeded = Sampler(**{**{k: getattr(sampler, k) for k in sampler.__slots__}, "seed": seed_for(f"chi-square {rule}")})

    drawn, logs = dev.sample(f, at, seeded, n=DRAWS, penalty_from=base)

    assert chi_square_fits(drawn, law(row, sampler, tokens, base))
    expected = torch.log_softmax(row.double(), -1)
    assert all(abs(lp - float(expected[t])) < CLOSE for t, lp in zip(drawn[:200], logs, strict=False))


def test_draws_of_generate_have_the_same_law(dev, opened):
    f, tokens, base = opened
    sampler = RULES["k_p_min"]
    row = torch.tensor(dev.row(f, len(tokens) - 1))

    def run(first: int) -> list[int]:
        out = []
        for seed in range(first, first + count(40, 400)):
            g = dev.fork(f)
            out += dev.generate(g, 1, sampler=Sampler(temperature=1.7, top_k=30, top_p=0.9, min_p=0.02, seed=seed)).tokens
            dev.drop(g)
        return out

    drawn = [t for part in together(*[lambda i=i: run(10_000 * i) for i in range(8)]) for t in part]

    assert chi_square_fits(drawn, law(row, sampler, tokens, base))


def test_greedy_takes_the_best_and_ties_do_not_matter(dev, opened):
    f, tokens, _ = opened
    row = torch.tensor(dev.row(f, len(tokens) - 1))

    assert dev.sample(f, len(tokens) - 1, Sampler(), n=3)[0] == [int(row.argmax())] * 3


def test_a_draw_depends_on_seed_position_and_draw_alone(dev, opened):
    f, tokens, _ = opened
    at = len(tokens) - 1
    s = Sampler(temperature=2.0, seed=77)

    whole, _ = dev.sample(f, at, s, n=12)

    assert dev.sample(f, at, s, n=12)[0] == whole
    assert dev.sample(f, at, s, n=5)[0] + dev.sample(f, at, s, n=7, first_draw=5)[0] == whole
    assert dev.sample(f, at, Sampler(temperature=2.0, seed=78), n=12)[0] != whole
    assert dev.sample(f, at - 1, s, n=12)[0] != whole
    fork = dev.fork(f)
    assert dev.sample(fork, at, s, n=12)[0] == whole
    dev.drop(fork)


def test_unseeded_draws_differ_from_call_to_call(dev, opened):
    f, tokens, _ = opened

    assert len({tuple(dev.sample(f, len(tokens) - 1, Sampler(temperature=3.0), n=8)[0]) for _ in range(4)}) > 1


@pytest.mark.parametrize("rule", ["temperature", "hot", "cold", "top_k", "top_p", "min_p", "k_p_min"])
def test_what_the_program_draws_itself_is_what_the_server_draws(dev, opened, rule):
    f, tokens, _ = opened
    sampler = RULES[rule]
    at, seed, n = len(tokens) - 1, 12345, count(500, 5000)
    (d,) = dev.forward(f, [], top_k=60, temperature=sampler.temperature)
    seeded = Sampler(**{**{k: getattr(sampler, k) for k in sampler.__slots__}, "seed": seed})

    server, _ = dev.sample(f, at, seeded, n=n)
    known = support(
        ids(d), logprobs(d), sampler, logsumexp=d.logsumexp, temperature=d.temperature, logsumexp_t=d.logsumexp_t
    )  # fmt: skip

    num_local = 0
    for i in range(n if known is not None else 0):
        rank = known.pick(uniform(seed, at, i))
        if rank is not None:
            num_local += 1
            assert ids(d)[rank] == server[i], i
    assert num_local > n // 2 or rule in ("hot", "top_p"), f"only {num_local} of {n} were drawn locally"


def test_a_row_that_is_gone_is_computed_again(dev, opened):
    f, tokens, base = opened
    whole = [dev.row(f, i) for i in (3, base, len(tokens) - 1)]
    s = Sampler(temperature=1.5, seed=4)
    draws = [dev.sample(f, i, s, n=6)[0] for i in (3, base, len(tokens) - 1)]

    dev.call_evict(f)
    fork = dev.fork(f)
    dev.truncate(fork, base + 1)
    fresh = dev.create(tokens, domain="fresh")

    for file, positions in ((f, (0, 1, 2)), (fork, (0, 1)), (fresh, (0, 1, 2))):
        for i in positions:
            at = (3, base, len(tokens) - 1)[i]
            assert torch.allclose(torch.tensor(dev.row(file, at)), torch.tensor(whole[i]), atol=CLOSE)
            assert dev.sample(file, at, s, n=6)[0] == draws[i]
    assert dev.counters()["files"] == 3  # the forks on which rows were computed are gone
    dev.drop(fork, fresh)


def test_rows_beyond_the_budget_are_computed_again(dev, opened):
    f, tokens, _ = opened
    device = dev.host.device
    budget = device.rows._capacity
    before = dev.row(f, len(tokens) - 1)
    g = dev.create(tokens, domain="g")

    dev.call(lambda: setattr(device.rows, "_capacity", 8))
    dev.forward(g, tokens[:20], outputs="all", keep="all")
    steps = dev.counters()["steps"]
    again = dev.row(f, len(tokens) - 1)
    dev.call(lambda: setattr(device.rows, "_capacity", budget))

    assert dev.counters()["steps"] > steps
    assert torch.allclose(torch.tensor(again), torch.tensor(before), atol=CLOSE)
    assert dev.counters()["rows_kept"] <= 9
    dev.drop(g)


def test_a_row_may_be_asked_for_while_its_file_changes(dev, opened):
    """The recomputation has a fork of its own: truncate and drop don't disturb it."""
    _, tokens, base = opened
    g = dev.create(tokens)
    dev.forward(g, [])
    expected = dev.row(g, base)
    job, q = dev.job()

    dev.submit(RowJob(job, g, base, Owner()), TruncateFile(g, 2), DropFile(g))

    assert torch.allclose(torch.tensor(unpack_floats(q.get(timeout=60).logits)), torch.tensor(expected), atol=CLOSE)


def test_a_cancelled_row_leaves_nothing(dev, opened):
    f, _, _ = opened
    job, q = dev.job()

    dev.submit(RowJob(job, f, 5, Owner()), CancelJob(job))

    assert isinstance(q.get(timeout=60), JobFailed)
    assert dev.counters()["files"] == 1
