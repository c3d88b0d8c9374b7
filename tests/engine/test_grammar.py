"""Grammars: what is sampled is valid, however the call is split, on forks, and by `sample`."""

from __future__ import annotations

import json
import re

import pytest

from tests.counts import count
from tests.engine.driver import Driver
from tests.engine.reference import plain, prompts, together
from vllm_symphony.abi.types import Grammar, Ino, Predicate, Sampler
from vllm_symphony.errors import InvalidArgument

WORDS = "[a-z]{2,6}( [a-z]{2,6}){4,8}[.]"
SCHEMA = json.dumps({
    "type": "object", "additionalProperties": False, "required": ["name", "age", "colours"],
    "properties": {
        "name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
    },
})  # fmt: skip
CHOICES = ["yes", "no", "yes and no", "maybe later"]
EBNF = 'root ::= "[" item ("," item)* "]"\nitem ::= [a-c]+ | "é"'


def valid_json(text: str) -> bool:
    value = json.loads(text)
    return set(value) == {"name", "age", "colours"} and 0 <= value["age"] <= 120


GRAMMARS = {
    "json": (Grammar("json", SCHEMA), valid_json),
    "regex": (Grammar("regex", r"[A-Z][a-z]{2,6} (19|20)[0-9]{2}"), lambda t: re.fullmatch(r"[A-Z][a-z]{2,6} (19|20)[0-9]{2}", t)),
    "choice": (Grammar("choice", json.dumps(CHOICES)), lambda t: t in CHOICES),
    "ebnf": (Grammar("ebnf", EBNF), lambda t: re.fullmatch(r"\[([a-c]+|é)(,([a-c]+|é))*\]", t)),
}
SAMPLERS = {
    "greedy": Sampler(repetition_penalty=1.2, presence_penalty=0.5),  # or the tiny model repeats itself without end
    "seeded": Sampler(temperature=1.3, seed=3),
}


def num_steps(dev: Driver) -> float:
    return dev.call(lambda: dev.host.scheduler.num_steps)


def text_of(dev: Driver, tokens: list[int]) -> str:
    return dev.host.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("how", SAMPLERS)
@pytest.mark.parametrize("kind", GRAMMARS)
def test_output_is_valid_and_splits_are_equal(dev, kind, how):
    grammar, is_valid = GRAMMARS[kind]
    prompt = prompts(dev, 1)[0]
    base = len(prompt)
    grammar = Grammar(grammar.kind, grammar.text, start=base)
    f, g, h = dev.create(prompt), dev.create(prompt), dev.create(prompt)
    kw = {"grammar": grammar, "sampler": SAMPLERS[how], "penalty_from": base}

    whole = dev.generate(f, count(90, 300), **kw)
    ones = []
    while len(ones) < len(whole.tokens):
        ones += dev.generate(g, 1, **kw).tokens
    parts, turn = [], 0
    while len(parts) < len(whole.tokens):
        way = ({"max_tokens": 3}, {"max_tokens": 300, "until": Predicate("every", value=2)}, {"max_tokens": 4})[turn % 3]
        parts += dev.generate(h, **way, **kw).tokens
        turn += 1

    assert ones == whole.tokens
    assert parts[: len(whole.tokens)] == whole.tokens
    if whole.done.reason == "grammar":
        assert is_valid(text_of(dev, whole.tokens)), text_of(dev, whole.tokens)
        assert whole.tokens[-1] in dev.host.model.eos_tokens
        assert is_valid(whole.text)
    else:
        assert kind in ("json", "ebnf") and whole.done.reason == "length"
    dev.drop(f, g, h)


def test_choices_end_and_every_kind_of_output_is_valid_at_many_seeds(dev):
    prompt = prompts(dev, 2)[1]
    root = dev.create(prompt)
    dev.forward(root, [], outputs="none")

    def run(i: int) -> None:
        kind = [*GRAMMARS][i % 4]
        grammar, is_valid = GRAMMARS[kind]
        f = dev.fork(root)
        sampler = Sampler(temperature=1.0, seed=i)
        out = dev.generate(f, 400, grammar=Grammar(grammar.kind, grammar.text, len(prompt)), sampler=sampler)
        dev.drop(f)
        if out.done.reason == "grammar":
            assert is_valid(out.text), out.text
        else:
            assert kind in ("json", "ebnf"), (kind, out.done)

    together(*[lambda i=i: run(i) for i in range(24)])
    dev.drop(root)


def test_a_greedy_grammar_gives_plain_vllms_tokens(dev):
    from vllm.sampling_params import StructuredOutputsParams

    prompt = prompts(dev, 3)[2]
    f = dev.create(prompt)
    mine = dev.generate(f, 100, grammar=Grammar("regex", WORDS, len(prompt)), ignore_eos=False)

    params = StructuredOutputsParams(regex=WORDS)  # not JSON: a file's is compact
    sampled = plain_with_grammar(dev, prompt, params)

    assert mine.tokens == sampled
    dev.drop(f)


def test_json_of_files_is_compact_and_plain_requests_keep_vllms(dev):
    """Blanks are allowed where vLLM's config allows them; a file's grammar allows none outside of strings."""
    f = dev.create(prompts(dev, 3)[2])
    end = dev.lengths[f]
    grammars = dev.host.device.grammars

    compact = dev.generate(f, 100, grammar=Grammar("json", SCHEMA, end), ignore_eos=False)

    text = dev.host.decode(list(compact.tokens))
    assert (
        text.strip() == json.dumps(json.loads(text), separators=(",", ":")) or ", " in text
    )  # xgrammar 0.2.8: blanks after commas
    assert not grammars.vllm_config.structured_outputs_config.disable_any_whitespace
    assert not grammars.manager.backend.disable_any_whitespace
    dev.drop(f)


def plain_with_grammar(dev: Driver, prompt: list[int], structured: object) -> list[int]:
    from vllm import SamplingParams

    config, tokenizer = dev.host.device.grammars.vllm_config, dev.host.tokenizer
    SamplingParams(structured_outputs=structured)._validate_structured_outputs(
        config.model_config, config.structured_outputs_config, tokenizer
    )
    ends = list(dev.host.model.eos_tokens)
    return plain(dev, prompt, 100, None, structured_outputs=structured, stop_token_ids=ends, ignore_eos=False).tokens


def test_forks_continue_the_grammar_where_the_file_stood(dev):
    prompt = prompts(dev, 1)[0]
    base = len(prompt)
    grammar = Grammar("regex", r"(ab|ba){4}c", start=base)
    f = dev.create(prompt)
    dev.generate(f, 3, grammar=grammar)

    texts = set()
    for seed in range(6):
        g = dev.fork(f)
        dev.generate(g, 60, grammar=grammar, sampler=Sampler(temperature=2.0, seed=seed))
        tokens = dev.call(lambda g=g: list(dev.host.device.table.files[g].tokens))
        texts.add(text_of(dev, tokens[base:]))
        dev.drop(g)

    assert all(re.fullmatch(r"(ab|ba){4}c", t) for t in texts) and len(texts) > 1
    dev.truncate(f, base + 1)  # rolled back with the file
    dev.generate(f, 60, grammar=grammar)
    tokens = dev.call(lambda: list(dev.host.device.table.files[f].tokens))
    assert re.fullmatch(r"(ab|ba){4}c", text_of(dev, tokens[base:]))
    dev.drop(f)


def test_tokens_that_do_not_fit_the_grammar_are_refused_and_change_nothing(dev):
    prompt = prompts(dev, 1)[0]
    f = dev.create(prompt)

    with pytest.raises(InvalidArgument, match="do not fit the grammar"):
        dev.generate(f, 5, grammar=Grammar("regex", "[0-9]+", start=2))

    assert len(dev.generate(f, 5).tokens) == 5
    dev.drop(f)


INVALID = [
    Grammar("json", "{not json"), Grammar("json", '{"type": "no such type"}'), Grammar("json", '"text"'), Grammar("json", "5"),
    Grammar("json", "[1, 2]"), Grammar("json", ""), Grammar("regex", "[a-"), Grammar("regex", "(("),
    Grammar("ebnf", "this is no grammar"), Grammar("ebnf", ""), Grammar("ebnf", "root ::= undefined_rule"),
    Grammar("choice", "[]"), Grammar("choice", "{}"), Grammar("choice", "5"), Grammar("choice", "[1, 2]"),
    Grammar("choice", "nonsense"), Grammar("choice", '"abc"'), Grammar("json", '{"$ref": "#/nowhere"}'),
]  # fmt: skip


@pytest.mark.parametrize("grammar", INVALID, ids=lambda g: f"{g.kind}-{g.text[:12]}")
def test_an_invalid_grammar_is_einval_in_generate_and_sample(dev, grammar):
    prompt = prompts(dev, 1)[0]
    f = dev.create(prompt)
    grammar = Grammar(grammar.kind, grammar.text, len(prompt))

    with pytest.raises(InvalidArgument):
        dev.generate(f, 3, grammar=grammar)
    with pytest.raises(InvalidArgument):
        dev.sample(f, len(prompt) - 1, Sampler(), grammar=grammar)

    assert len(dev.generate(f, 2).tokens) == 2
    dev.check()
    dev.drop(f)


def test_a_sample_with_a_grammar_draws_only_what_it_allows(dev):
    prompt = prompts(dev, 1)[0]
    base = len(prompt)
    f = dev.create(prompt)
    dev.forward(f, [])

    for seed in range(3):
        tokens, _ = dev.sample(
            f, base - 1, Sampler(temperature=3.0, seed=seed), n=50, grammar=Grammar("regex", "[0-9]{3}", start=base)
        )  # fmt: skip
        assert all(re.fullmatch("[0-9]{1,3}", text_of(dev, [t])) for t in tokens)
    dev.drop(f)


def test_a_program_that_samples_with_a_grammar_spells_what_generate_spells(dev):
    prompt = prompts(dev, 1)[0]
    base = len(prompt)
    grammar = Grammar("choice", json.dumps(CHOICES), start=base)
    f, g = dev.create(prompt), dev.create(prompt)
    whole = dev.generate(f, 60, grammar=grammar).tokens

    dev.forward(g, [])
    spelled: list[int] = []
    while len(spelled) < len(whole):
        (token,), _ = dev.sample(g, base - 1 + len(spelled), Sampler(), grammar=grammar)
        spelled.append(token)
        dev.forward(g, [token])

    assert spelled == whole
    dev.drop(f, g)


def test_a_grammar_that_takes_long_to_compile_wakes_the_loop(dev):
    """The engine sleeps while the grammar compiles in vLLM's pool, and the end of the compilation wakes it."""
    import threading

    release = threading.Event()
    manager = dev.host.device.grammars.manager
    create = manager._create_grammar

    def slow(request: object) -> object:
        release.wait(30)
        return create(request)

    manager._create_grammar = slow
    try:
        prompt = prompts(dev, 1)[0]
        f = dev.create(prompt)
        _, q = dev.start_generate(f, 20, grammar=Grammar("choice", '["late", "later"]', len(prompt)))
        steps = settle(dev, f)
        release.set()
        assert dev.collect(f, q).text in ("late", "later")
        assert dev.counters()["engine_steps"] <= steps + 20
    finally:
        release.set()
        manager._create_grammar = create
    dev.drop(f)


def test_a_job_that_waits_for_its_grammar_can_be_cancelled(dev):
    import threading

    from vllm_symphony.errors import Interrupted

    release = threading.Event()
    manager = type(dev.host.device.grammars.manager)  # files have a twin of it
    create = manager._create_grammar
    manager._create_grammar = lambda self, request: release.wait(30) and create(self, request)
    try:
        f = dev.create(prompts(dev, 1)[0])
        job, q = dev.start_generate(f, 20, grammar=Grammar("choice", '["never"]', dev.lengths[f]))
        settle(dev, f)
        dev.cancel(job)
        with pytest.raises(Interrupted):
            dev.collect(f, q)
    finally:
        release.set()
        manager._create_grammar = create
    dev.drop(f)


def settle(dev: Driver, f: Ino) -> float:
    """Let the loop come to rest; the step counter stands still over half a second."""
    import time

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        before = dev.call(lambda: dev.host.scheduler.num_steps)
        time.sleep(0.5)
        if dev.call(lambda: dev.host.scheduler.num_steps) == before:
            return before
    raise AssertionError("the loop does not come to rest")
