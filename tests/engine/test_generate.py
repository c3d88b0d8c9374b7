"""The fused loop: however it is split, the file and the tokens are the same; it stops where it is told to."""

from __future__ import annotations

import math

import pytest
import torch

from tests.engine.driver import Driver, ids, logprobs
from tests.engine.reference import CLOSE, best, long_prompt, plain, prompts, same, together
from vllm_symphony.abi.types import Grammar, Ino, Predicate, Sampler, pack_tokens, unpack_tokens

N = 48
NEVER = Predicate("entropy", value=1e9)
GREEDY = {
    "greedy": Sampler(),
    "presence": Sampler(presence_penalty=1.5),
    "frequency": Sampler(frequency_penalty=0.8),
    "repetition": Sampler(repetition_penalty=1.3),
    "bias": Sampler(logit_bias={17: 4.0, 300: -8.0, 5: 2.5}),
    "allowed": Sampler(allowed=pack_tokens(range(3, 400))),
    "all": Sampler(
        presence_penalty=0.7, frequency_penalty=0.5, repetition_penalty=1.15, logit_bias={17: 3.0}, allowed=pack_tokens(range(700))
    ),
}
SEEDED = {
    "temperature": Sampler(temperature=0.9, seed=7),
    "hot": Sampler(temperature=1.7, seed=8, top_k=40),
    "top_p": Sampler(temperature=1.2, top_p=0.8, seed=9),
    "min_p": Sampler(temperature=1.5, min_p=0.05, seed=10),
    "everything": Sampler(
        temperature=1.1,
        top_k=50,
        top_p=0.9,
        min_p=0.01,
        presence_penalty=0.4,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        seed=11,
    ),
}


def pieces(dev: Driver, file: Ino, split: list[int | Predicate], total: int, **kw: object) -> tuple[list[int], list[float]]:
    """Generate `total` tokens in calls of these sizes, or until these predicates, in turn for ever."""
    tokens: list[int] = []
    logs: list[float] = []
    turn = 0
    while len(tokens) < total:
        part = split[turn % len(split)]
        turn += 1
        left = total - len(tokens)
        kw = {**kw, "logprobs": True}
        if isinstance(part, Predicate):
            g = dev.generate(file, left, until=part, **kw)
            if g.done.reason == "until" and not g.tokens:  # it fires again where it fired: step over it
                g = dev.generate(file, 1, **kw)
        else:
            g = dev.generate(file, min(part, left), **kw)
        tokens += g.tokens
        logs += g.logprobs
    return tokens, logs


@pytest.mark.parametrize("name", [*GREEDY, *SEEDED])
def test_a_generate_equals_any_split_of_it(dev, name):
    sampler = (GREEDY | SEEDED)[name]
    prompt = prompts(dev, 5)[4]
    base = len(prompt)
    whole_file = dev.create(prompt)

    whole = dev.generate(whole_file, N, sampler=sampler, logprobs=True)

    assert len(whole.tokens) == N and whole.done.reason == "length" and whole.done.frontier == base + N - 1
    splits = {
        "ones": [1],
        "every": [Predicate("every", value=7)],
        "after": [Predicate("after", value=13)],
        "entropy": [Predicate("entropy", value=1.0)],
        "either": [Predicate("or", parts=(Predicate("every", value=5), Predicate("top1", value=0.4, below=True)))],
        "mixed": [3, NEVER, 1, Predicate("every", value=4), 10],
    }
    for split in splits.values():
        f = dev.create(prompt)
        tokens, logs = pieces(dev, f, split, N, sampler=sampler, penalty_from=base)
        assert tokens == whole.tokens
        assert logs == pytest.approx(whole.logprobs, abs=CLOSE)
        dev.drop(f)
    dev.drop(whole_file)


def test_splits_of_many_programs_in_one_batch_are_equal_too(dev):
    texts = prompts(dev, 12)
    samplers = [*GREEDY.values(), *SEEDED.values()]

    def run(i: int) -> tuple[list[int], list[int]]:
        f, g = dev.create(texts[i]), dev.create(texts[i])
        whole = dev.generate(f, 30, sampler=samplers[i]).tokens
        split, _ = pieces(dev, g, [1, 4, Predicate("every", value=3)], 30, sampler=samplers[i], penalty_from=len(texts[i]))
        dev.drop(f, g)
        return whole, split

    for whole, split in together(*[lambda i=i: run(i) for i in range(12)]):
        assert whole == split


def test_penalties_count_what_plain_vllm_counts(dev):
    prompt = prompts(dev, 3)[2]
    s = GREEDY["all"]
    f = dev.create(prompt)

    mine = dev.generate(f, N, sampler=s)

    reference = plain(
        dev, prompt, N, None, presence_penalty=s.presence_penalty, frequency_penalty=s.frequency_penalty,
        repetition_penalty=s.repetition_penalty, logit_bias=s.logit_bias, allowed_token_ids=list(range(700)),
    )  # fmt: skip
    assert mine.tokens == reference.tokens
    dev.drop(f)


def test_a_generate_without_penalties_ignores_where_they_would_count(dev):
    prompt = prompts(dev, 1)[0]
    f, g = dev.create(prompt), dev.create(prompt)

    dev.generate(f, 5)
    more = dev.generate(f, 5, penalty_from=len(prompt))

    assert more.tokens == dev.generate(g, 10).tokens[5:]
    dev.drop(f, g)


def test_seeded_runs_repeat_and_seeds_differ(dev):
    prompt = prompts(dev, 1)[0]
    runs = {}
    for seed in (1, 1, 2, 3):
        f = dev.create(prompt)
        runs.setdefault(seed, []).append(tuple(dev.generate(f, 40, sampler=Sampler(temperature=1.5, seed=seed)).tokens))
        dev.drop(f)

    assert runs[1][0] == runs[1][1]
    assert len({runs[1][0], runs[2][0], runs[3][0]}) == 3


def test_a_seeded_generate_begins_with_a_prefill_of_several_chunks(dev):
    prompt = long_prompt(dev, 1200, salt=51)
    f, g = dev.create(prompt, domain="f"), dev.create(prompt, domain="g")

    whole = dev.generate(f, 12, sampler=SEEDED["temperature"])
    split, _ = pieces(dev, g, [1, 5], 12, sampler=SEEDED["temperature"])

    assert whole.tokens == split
    dev.drop(f, g)


def test_logprobs_are_those_of_the_forward(dev):
    prompt = prompts(dev, 2)[1]
    f, g = dev.create(prompt), dev.create(prompt)

    out = dev.generate(f, 20, logprobs=True, sampler=SEEDED["hot"])

    (first,) = dev.forward(g, [], top_k=1024)
    rows = [first, *dev.forward(g, out.tokens, outputs="all", top_k=1024)]
    for token, logprob, d in zip(out.tokens, out.logprobs, rows, strict=False):
        assert dict(zip(ids(d), logprobs(d), strict=True))[token] == pytest.approx(logprob, abs=CLOSE)
    dev.drop(f, g)


def test_a_generate_goes_on_after_forwards_and_forwards_after_a_generate(dev):
    prompt = prompts(dev, 4)[3]
    f, g = dev.create(prompt), dev.create(prompt)
    whole = dev.generate(f, 30).tokens

    tokens = list(dev.generate(g, 9).tokens)
    (d,) = dev.forward(g, [], top_k=1)
    for _ in range(5):
        tokens.append(best(d))
        (d,) = dev.forward(g, [tokens[-1]], top_k=1)
    fork = dev.fork(g)
    tokens += dev.generate(g, 16).tokens

    assert tokens == whole
    assert dev.generate(fork, 16).tokens == whole[14:]
    dev.drop(f, g, fork)


# ---- until


def test_until_hands_back_the_row_that_fired_and_keeps_it(dev):
    prompt = prompts(dev, 1)[0]
    base = len(prompt)
    f, g = dev.create(prompt), dev.create(prompt)
    tokens = dev.generate(f, N).tokens
    (first,) = dev.forward(g, [], top_k=20, entropy=True)
    rows = [first, *dev.forward(g, tokens, outputs="all", top_k=20, entropy=True)]  # rows[i] chose tokens[i]
    threshold = sorted(r.entropy for r in rows[:N])[-4] - 1e-3
    fires = [i for i in range(N) if rows[i].entropy > threshold]

    h = dev.create(prompt)
    at = 0
    for i in fires:
        out = dev.generate(h, N, until=Predicate("entropy", value=threshold))
        assert out.done.reason == "until" and out.tokens == tokens[at:i]
        assert dev.lengths[h] == base + i == out.done.frontier
        same(out.done.distribution, rows[i])
        assert out.done.distribution.entropy == pytest.approx(rows[i].entropy, abs=CLOSE)
        steps = dev.counters()["steps"]
        assert dev.sample(h, base + i - 1, Sampler())[0] == [tokens[i]]  # the row is there: no step
        assert dev.counters()["steps"] == steps
        assert dev.generate(h, 1).tokens == [tokens[i]]
        at = i + 1
    dev.drop(f, g, h)


def holds(p: Predicate, row: torch.Tensor, n: int) -> bool:
    """The predicate by its definition."""
    if p.op in ("and", "or"):
        return (all if p.op == "and" else any)([holds(q, row, n) for q in p.parts])
    if p.op == "after":
        return n >= p.value
    if p.op == "every":
        return n > 0 and n % p.value == 0
    probs = row.double().softmax(-1)
    top = probs.topk(2).values
    if p.op == "top1_in":
        return int(probs.argmax()) in unpack_tokens(p.tokens)
    value = {
        "entropy": float(torch.special.entr(probs).sum()), "top1": float(top[0]), "margin": float(top[0] - top[1]),
        "mass": float(probs[unpack_tokens(p.tokens)].sum()) if p.tokens else 0.0,
    }[p.op]  # fmt: skip
    return value < p.value if p.below else value > p.value


def test_every_predicate_fires_first_where_its_definition_holds(dev):
    prompt = prompts(dev, 1)[0]
    base = len(prompt)
    f = dev.create(prompt)
    tokens = dev.generate(f, N).tokens
    dev.truncate(f, base)
    dev.forward(f, [], outputs="last", keep="last")
    dev.forward(f, tokens, outputs="all", keep="all")
    rows = [torch.tensor(dev.row(f, base - 1 + i)) for i in range(N)]
    common = pack_tokens(sorted(set(tokens))[:6])
    P = Predicate  # noqa: N806
    cases = [
        P("entropy", value=1.5), P("entropy", value=0.05, below=True), P("top1", value=0.97), P("top1", value=0.5, below=True),
        P("margin", value=0.9), P("margin", value=0.1, below=True), P("top1_in", tokens=pack_tokens([tokens[20]])),
        P("mass", tokens=common, value=0.5), P("mass", tokens=common, value=0.01, below=True), P("after", value=0),
        P("after", value=11), P("every", value=9), P("and", parts=(P("after", value=5), P("entropy", value=0.3))),
        P("or", parts=(P("after", value=30), P("and", parts=(P("every", value=4), P("top1", value=0.6, below=True))))),
    ]  # fmt: skip

    for p in cases:
        h = dev.fork(f, base)
        out = dev.generate(h, N, until=p)
        expected = next((i for i in range(N) if holds(p, rows[i], i)), None)
        assert (out.done.reason == "until") == (expected is not None), p
        assert out.tokens == tokens[:expected], p
        dev.drop(h)
    dev.drop(f)


@pytest.mark.parametrize("n", [31, 32, 33, 64])
def test_until_at_a_page_boundary_leaves_a_file_that_goes_on(dev, n):
    prompt = prompts(dev, 1)[0][:8]
    f, g = dev.create(prompt), dev.create(prompt)
    whole = dev.generate(g, n + 20).tokens

    out = dev.generate(f, 200, until=Predicate("after", value=n - 8))

    assert out.tokens == whole[: n - 8] and dev.lengths[f] == n
    dev.check()
    fork = dev.fork(f)
    assert dev.generate(f, 20).tokens == whole[n - 8 :][:20]
    assert dev.generate(fork, 20).tokens == whole[n - 8 :][:20]
    dev.drop(f, g, fork)


# ---- stopping


def spelled(dev: Driver, text: str) -> list[int]:
    return dev.host.tokenizer.encode(text, add_special_tokens=False)


def story(dev: Driver, n: int = 60) -> tuple[list[int], list[int], list[str]]:
    """A prompt, its greedy continuation, and the text after each token."""
    prompt = prompts(dev, 1)[0]
    f = dev.create(prompt)
    tokens = dev.generate(f, n).tokens
    dev.drop(f)
    decode = dev.host.tokenizer.decode
    return prompt, tokens, [decode(tokens[: i + 1], skip_special_tokens=True) for i in range(n)]


def test_text_is_the_detokenised_tokens_however_it_is_split(dev):
    prompt, _, texts = story(dev)
    f, g = dev.create(prompt), dev.create(prompt)

    whole = dev.generate(f, 60)
    parts = "".join(dev.generate(g, n).text for n in (1, 1, 5, 20, 33))

    assert whole.text == texts[-1] == parts
    dev.drop(f, g)


def test_a_stop_string_ends_the_file_with_the_token_that_completes_it(dev):
    prompt, tokens, texts = story(dev)
    whole = texts[-1]
    stops = {  # first occurrences at the start, inside a token, over several tokens, with blanks
        whole[0], whole[:3], whole[10:12], whole[15:32], whole[40:41], whole[20:45],
    }  # fmt: skip
    for stop in stops:
        f = dev.create(prompt)
        out = dev.generate(f, 60, stop=(stop,))
        end = next(i for i, text in enumerate(texts) if stop in text)
        assert (out.done.reason, out.done.stop) == ("stop", stop)
        assert out.tokens == tokens[: end + 1], stop
        assert dev.lengths[f] == len(prompt) + end + 1 and out.done.frontier == dev.lengths[f] - 1
        assert out.text == texts[-1][: texts[end].index(stop)], stop
        assert dev.generate(f, 5).tokens == tokens[end + 1 :][:5]
        dev.drop(f)


def test_of_several_stop_strings_the_first_that_is_complete_wins(dev):
    prompt, tokens, texts = story(dev)
    first, second = texts[-1][30:36], texts[-1][60:64]
    f = dev.create(prompt)

    out = dev.generate(f, 60, stop=(second, first, "never in the text"))

    assert out.done.stop == first
    assert out.tokens == tokens[: next(i for i, t in enumerate(texts) if first in t) + 1]
    dev.drop(f)


@pytest.mark.parametrize("stop", ["é", "🦊", "日本", "naïve é"])
def test_a_stop_string_of_several_bytes_may_span_tokens(dev, stop):
    tokens = spelled(dev, f"a {stop} b")
    assert len(spelled(dev, stop)) > 1
    grammar_text = f'root ::= "a {stop} b"'
    f = dev.create(prompts(dev, 1)[0])
    out = dev.generate(f, 60, stop=(stop,), grammar=Grammar("ebnf", grammar_text))

    assert (out.done.reason, out.done.stop, out.text) == ("stop", stop, "a ")
    assert dev.host.tokenizer.decode(out.tokens).endswith(stop)
    assert len(out.tokens) <= len(tokens) + 8
    dev.drop(f)


def test_multi_byte_text_survives_splits(dev):
    text = "été 🦊🦊 日本"
    f, g = dev.create([5]), dev.create([5])
    grammar = Grammar("ebnf", f'root ::= "{text}"', start=1)

    whole = dev.generate(f, 80, grammar=grammar, sampler=Sampler())
    parts, tokens = "", []
    while True:
        out = dev.generate(g, 1, grammar=grammar)
        parts += out.text
        tokens += out.tokens
        if out.done.reason != "length":
            break

    assert whole.done.reason == "grammar" and whole.text == text
    assert tokens == whole.tokens
    assert parts == text
    dev.drop(f, g)


def test_stop_tokens_end_it_and_are_in_the_file(dev):
    prompt, tokens, _ = story(dev)
    stop = tokens[25]
    end = tokens.index(stop)
    f = dev.create(prompt)

    out = dev.generate(f, 60, stop_tokens=(stop, 1023))

    assert (out.done.reason, out.done.stop) == ("stop", str(stop))
    assert out.tokens == tokens[: end + 1]
    dev.drop(f)


def test_the_models_end_token_ends_it_unless_ignored(dev):
    prompt = prompts(dev, 1)[0]
    f, g = dev.create(prompt), dev.create(prompt)

    out = dev.generate(f, 400, ignore_eos=False)
    beyond = dev.generate(g, len(out.tokens) + 10)

    assert out.done.reason == "stop" and out.tokens[-1] in dev.host.model.eos_tokens and int(out.done.stop) == out.tokens[-1]
    assert len(beyond.tokens) == len(out.tokens) + 10 and beyond.tokens[: len(out.tokens)] == out.tokens
    dev.drop(f, g)


def test_a_stop_token_that_is_no_end_token_is_in_the_text_like_the_file(dev):
    prompt, tokens, texts = story(dev)
    f = dev.create(prompt)

    out = dev.generate(f, 60, stop_tokens=(tokens[12],))

    end = tokens.index(tokens[12])
    assert out.tokens == tokens[: end + 1]
    assert out.text in (texts[end], texts[end - 1])
    dev.drop(f)


def test_generate_runs_up_to_the_position_limit(dev):
    limit = dev.host.model.max_positions
    f = dev.create(long_prompt(dev, limit - 4, salt=61))

    out = dev.generate(f, 4)

    assert len(out.tokens) == 4 and out.done.reason == "length"
    dev.drop(f)


def test_an_armed_predicate_that_never_fires_changes_nothing(dev):
    prompt = prompts(dev, 1)[0]
    f, g = dev.create(prompt), dev.create(prompt)

    assert dev.generate(f, N, until=NEVER).tokens == dev.generate(g, N).tokens
    assert math.isfinite(sum(dev.generate(f, 3, logprobs=True).logprobs))
    dev.drop(f, g)
