"""Local sampling against the whole row: same token as the remote draw for the same key, and the row's law over many keys."""

import math
import random
from collections import Counter

import pytest

from tests.counts import count, random_for
from tests.unit.lip.toy import VOCAB, distribution, draw, law, logsumexp
from vllm_symphony.abi.draw import uniform
from vllm_symphony.abi.types import Sampler, pack_floats, pack_tokens, unpack_floats, unpack_tokens
from vllm_symphony.lip.local import support

DRAWS = count(20_000, 100_000)
PEAKED, FLAT = 2.2, 0.7


def make_row(rng: random.Random, spread: float) -> list[float]:
    return unpack_floats(pack_floats([rng.gauss(0, spread) for _ in range(VOCAB)]))


def known(row, sampler, top_k, temperature=1.0):
    d = distribution(row, 0, top_k, temperature)
    ids, logprobs = unpack_tokens(d.ids), unpack_floats(d.logprobs)
    terms = {"logsumexp": d.logsumexp, "temperature": d.temperature, "logsumexp_t": d.logsumexp_t}
    return ids, support(ids, logprobs, sampler, **terms)


def best(row, n):
    return sorted(range(VOCAB), key=lambda t: -row[t])[:n]


RULES = {  # sampler, top_k asked for, temperature asked for, share of draws that must be local
    "plain": (Sampler(temperature=1.0), 90, 1.0, 0.9),
    "temperature": (Sampler(temperature=0.7), 60, 0.7, 0.9),
    "hot": (Sampler(temperature=1.5), 60, 1.5, 0.4),
    "top_k at any temperature": (Sampler(temperature=0.6, top_k=20), 20, 1.0, 0.99),
    "top_p": (Sampler(temperature=1.0, top_p=0.8), 90, 1.0, 0.99),
    "top_p, temperature": (Sampler(temperature=0.8, top_p=0.9), 90, 0.8, 0.99),
    "min_p": (Sampler(temperature=1.0, min_p=0.1), 60, 1.0, 0.99),
    "min_p, top_k, top_p": (Sampler(temperature=0.9, min_p=0.01, top_k=12, top_p=0.85), 20, 1.0, 0.99),
    "top_k, top_p": (Sampler(temperature=1.3, top_k=30, top_p=0.7), 30, 1.0, 0.99),
}


def chi_square_p(observed: Counter, expected: dict[int, float], n: int) -> float:
    """Upper tail probability, by Wilson and Hilferty; cells that expect fewer than 10 are pooled."""
    cells, pooled = [], [0.0, 0.0]
    for token, p in expected.items():
        if p * n < 10:
            pooled = [pooled[0] + observed[token], pooled[1] + p * n]
        else:
            cells.append((observed[token], p * n))
    if pooled[1] >= 10:
        cells.append(tuple(pooled))
    k = len(cells) - 1
    x = sum((o - e) ** 2 / e for o, e in cells)
    z = ((x / k) ** (1 / 3) - (1 - 2 / (9 * k))) / math.sqrt(2 / (9 * k))
    return 0.5 * math.erfc(z / math.sqrt(2))


@pytest.mark.parametrize("rule", RULES)
def test_many_draws_have_the_rows_law(rule):
    sampler, top_k, temperature, share = RULES[rule]
    rng = random_for(f"law of {rule}")
    row = make_row(rng, PEAKED)
    ids, may = known(row, sampler, top_k, temperature)
    full = law(row, sampler)
    total = sum(w for _, w in full)
    observed, num_local = Counter(), 0

    for i in range(DRAWS):
        seed = rng.getrandbits(64)
        rank = may.pick(uniform(seed, 7, i))
        if rank is None:
            keyed = Sampler(sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p, seed=seed)
            observed[draw(row, keyed, 7, i)] += 1
        else:
            observed[ids[rank]] += 1
            num_local += 1

    assert set(observed) <= {t for t, _ in full}
    assert chi_square_p(observed, {t: w / total for t, w in full}, DRAWS) > 1e-4
    assert num_local / DRAWS >= share


@pytest.mark.parametrize("spread", [PEAKED, FLAT])
@pytest.mark.parametrize("rule", RULES)
def test_local_and_remote_draw_the_same_token_for_the_same_key(rule, spread):
    sampler, top_k, temperature, _ = RULES[rule]
    rng = random_for(f"keys of {rule} {spread}")
    num_local = 0

    for position in range(count(300, 3000)):
        row = make_row(rng, spread)
        ids, may = known(row, sampler, top_k, temperature)
        seed = rng.getrandbits(64)
        keyed = Sampler(sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p, seed=seed)
        for number in range(3):
            rank = may and may.pick(uniform(seed, position, number))
            if rank is not None:
                num_local += 1
                assert ids[rank] == draw(row, keyed, position, number)

    assert num_local or spread == FLAT


def test_the_law_test_would_notice_a_wrong_law():
    row = make_row(random.Random(1), PEAKED)
    sampler = Sampler(temperature=1.0, top_k=20)
    ids, may = known(row, Sampler(temperature=1.1, top_k=20), 20)
    full = law(row, sampler)
    total = sum(w for _, w in full)

    observed = Counter(ids[r] for i in range(20_000) if (r := may.pick(uniform(5, 0, i))) is not None)

    assert chi_square_p(observed, {t: w / total for t, w in full}, 20_000) < 1e-4


def test_greedy_is_local_with_an_allowed_set_that_is_partly_known():
    row = make_row(random.Random(2), PEAKED)
    third, unknown = best(row, 3)[2], best(row, 100)[99]

    ids, may = known(row, Sampler(allowed=pack_tokens([unknown, third])), 20)

    assert ids[may.pick(0.9)] == third


def test_a_draw_from_an_allowed_set_is_local_when_all_of_it_is_known():
    row = make_row(random.Random(3), PEAKED)
    some = best(row, 20)[3:9]
    sampler = Sampler(temperature=1.4, top_p=0.9, allowed=pack_tokens(some), seed=11)

    ids, may = known(row, sampler, 20)

    for i in range(500):
        rank = may.pick(uniform(11, 4, i))
        assert rank is None or ids[rank] == draw(row, sampler, 4, i)


def test_a_draw_outside_the_known_mass_is_left_to_the_server():
    row = make_row(random.Random(4), FLAT)
    _, may = known(row, Sampler(temperature=1.0), 5)
    lse = logsumexp(row)
    mass = sum(math.exp(row[t] - lse) for t in best(row, 5))

    assert may.pick(mass - 0.001) is not None
    assert may.pick(mass + 0.001) is None
    assert may.pick(0.999999) is None


def test_a_draw_on_the_edge_between_two_tokens_is_left_to_the_server():
    row = make_row(random.Random(5), PEAKED)
    _, may = known(row, Sampler(temperature=1.0, top_k=10), 10)

    edge = may.cumulative[2] / may.total

    assert may.pick(edge - 1e-7) is None
    assert may.pick(edge + 1e-7) is None
    assert may.pick(0.0) == 0
    assert may.pick(1 - 2**-53) == 9


UNDECIDED = {
    "presence": Sampler(presence_penalty=0.1),
    "frequency": Sampler(frequency_penalty=0.1),
    "repetition": Sampler(repetition_penalty=1.1),
    "bias": Sampler(logit_bias={1: 2.0}),
    "allowed, none known": Sampler(allowed=pack_tokens([10_000])),
    "allowed, some unknown": Sampler(temperature=1.0, allowed=pack_tokens([10_000, *range(VOCAB)])),
    "another temperature": Sampler(temperature=0.9),
    "top_k beyond what is known": Sampler(temperature=1.0, top_k=21),
    "top_p beyond what is known": Sampler(temperature=1.0, top_p=0.99),
    "min_p below what is known": Sampler(temperature=1.0, min_p=0.001),
    "too cold": Sampler(temperature=0.001),
    "negative temperature": Sampler(temperature=-1.0),
    "no number": Sampler(temperature=math.nan),
    "infinite": Sampler(temperature=math.inf),
    "top_p of zero": Sampler(temperature=1.0, top_p=0.0),
    "negative top_k": Sampler(temperature=1.0, top_k=-1),
    "min_p above one": Sampler(temperature=1.0, min_p=1.5),
}


@pytest.mark.parametrize("why", UNDECIDED)
def test_what_the_known_ids_do_not_determine_is_left_to_the_server(why):
    row = make_row(random.Random(6), FLAT)

    assert known(row, UNDECIDED[why], 20)[1] is None


def test_nothing_known_determines_nothing():
    assert known(make_row(random.Random(7), FLAT), Sampler(), 0)[1] is None
