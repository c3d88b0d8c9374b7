"""A scripted model: what it wants, with which probability, and what it does not speak of."""

import math

import pytest

from vllm_symphony import lip
from vllm_symphony.engine.sim.model import END, VOCAB_SIZE, encode
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.testing import Machine, Script, SimModel, Unscripted, run_program


def row_after(script, text):
    tokens = [*encode(text)] if isinstance(text, str) else text
    return script.row([(token, i) for i, token in enumerate(tokens)])


def law_after(script, text):
    row = row_after(script, text).astype(float)
    p = [math.exp(x) for x in row]
    assert math.isclose(sum(p), 1, rel_tol=1e-5)
    return {("END" if t == END else chr(t)): round(x, 5) for t, x in enumerate(p) if x > 1e-6}


def say(script, prompt, **options):
    async def main() -> str:
        tokens = await lip.render_chat(prompt) if options.pop("chat", False) else await lip.tokenize(prompt)
        async with lip.open(tokens=tokens) as file:
            return (await file.generate(60, **options)).text

    with Machine(model=script) as m:
        return run_program(main, machine=m)


@pytest.mark.parametrize("prompt", ["What is it?", "tea", "Paris", "P", "The capital is P"])
@pytest.mark.parametrize("chat", [True, False])
def test_a_text_follows_any_prompt_also_one_that_ends_as_the_text_begins(prompt, chat):
    assert say(Script("Paris, surely."), prompt, chat=chat) == "Paris, surely."


def test_a_text_is_chosen_by_what_was_asked():
    script = Script({"of France?": "Paris.", "of Peru?": "Lima."})

    assert say(script, "The capital of Peru?") == "Lima."
    assert say(script, "The capital of France?", chat=True) == "Paris."


def test_a_model_that_speaks_letters_is_scripted_by_bytes():
    assert say(Script("Zürich – 東京"), "Where?") == "Zürich – 東京"


def test_a_prompt_may_already_hold_the_beginning_of_the_text():
    assert say(Script({"France?": " Paris."}), "The capital of France? Pa") == "ris."


def test_probabilities_are_exact_and_the_rest_is_shared():
    script = Script({"yes or": {" no": 0.6, " not": 0.1, " maybe": 0.3}, "x": {"y": 0.5}})

    assert law_after(script, "yes or") == {" ": 1}
    assert law_after(script, "yes or ") == {"n": 0.7, "m": 0.3}
    assert law_after(script, "yes or no") == {"END": pytest.approx(6 / 7, abs=1e-5), "t": pytest.approx(1 / 7, abs=1e-5)}
    assert law_after(script, "yes or maybe") == {"END": 1}
    other = math.exp(row_after(script, "x")[ord("z")])
    assert other == pytest.approx(0.5 / (VOCAB_SIZE - 1), rel=1e-5)


def test_a_program_measures_the_entropy_that_was_scripted():
    async def main() -> tuple[float, float]:
        async with lip.open(text="x") as file:
            dist = await file.forward(entropy=True)
            return dist.entropy, dist.prob(ord("a"))

    with Machine(model=Script({"x": {"a": 0.75, "b": 0.25}})) as m:
        entropy, p = run_program(main, machine=m)

    assert entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-5)
    assert p == pytest.approx(0.75, abs=1e-6)


def test_draws_follow_the_script():
    async def main() -> list[int]:
        async with lip.open(text="x") as file:
            dist = await file.forward()
            return await dist.sample(temperature=1.0, n=2000, seed=3)

    with Machine(model=Script({"x": {"a": 0.7, "b": 0.3}})) as m:
        drawn = run_program(main, machine=m)

    assert set(drawn) == {ord("a"), ord("b")}
    assert drawn.count(ord("a")) / len(drawn) == pytest.approx(0.7, abs=0.04)


def test_after_a_text_another_one_may_begin():
    script = Script({"Say:": "yes or", "yes or": {" no": 1.0}})

    assert say(script, "Say:") == "yes or no"


def test_a_grammar_leaves_the_best_of_what_it_allows():
    script = Script({"Is it?": {"maybe": 0.7, "no": 0.2, "yes": 0.1}})

    assert say(script, "Is it?") == "maybe"
    assert say(script, "Is it?", grammar=lip.choice(["yes", "no"])) == "no"


def test_a_later_wish_goes_before_an_earlier_one_and_a_longer_end_before_a_shorter_one():
    script = Script({"of France?": "Lyon.", "France?": "Nice."}).after("of France?", "Paris.")

    assert say(script, "The capital of France?") == "Paris."
    assert say(script, "Where in France?") == "Nice."


def test_after_the_end_comes_the_end():
    assert say(Script("ab"), "x", ignore_eos=True) == "ab"


def test_a_second_turn_is_a_prompt_again():
    async def main() -> list[str]:
        async with lip.open(tokens=lip.render_chat("one")) as chat:
            first = await chat.generate(20)
            await chat.append(await lip.render_chat("two"))
            return [first.text, (await chat.generate(20)).text]

    with Machine(model=Script("I see.")) as m:
        assert run_program(main, machine=m) == ["I see.", "I see."]


def test_what_is_not_scripted_ends_the_run_and_names_the_context():
    async def main() -> None:
        async with lip.open(text="The capital of Chad?") as file:
            await file.forward()

    with Machine(model=Script({"France?": "Paris."})) as m:
        m.start(main)

        with pytest.raises(Unscripted, match=r"'The capital of Chad\?' \(20 tokens\); scripted is what follows: 'France\?'"):
            m.run()
        m.run()
        m.check_idle()


@pytest.mark.parametrize("ask", [lambda f: f.forward("y"), lambda f: f.generate(3), lambda f: f.logits()])
def test_a_program_may_catch_it_and_the_test_still_hears_of_it(ask):
    async def main() -> tuple[str, int]:
        async with lip.open(text="x") as file:
            try:
                await ask(file)
            except lip.NotSupported as e:
                return e.reason, (await file.stat()).length
        raise AssertionError("it was answered")

    with Machine(model=Script()) as m:
        run = m.start(main)

        with pytest.raises(Unscripted, match="the script is empty"):
            m.run()
        m.run()
        m.check_idle()

    assert run.value == ["ENOTSUP", 1]


def test_otherwise_another_model_speaks():
    babble = SimModel()
    script = Script({"France?": "Paris."}, otherwise=babble)

    assert say(script, "France?") == "Paris."
    assert say(script, "Chad?", ignore_eos=True) == say(babble, "Chad?", ignore_eos=True)


def test_a_fork_a_retry_and_a_recomputation_see_the_same_row():
    async def main() -> list[list[float]]:
        async with lip.open(text="Who?") as file:
            await file.forward()
            async with file.fork() as mine:
                await mine.append("Me")
                rows = [await mine.logits(), await mine.logits(5)]
                await mine.truncate(4)
                return [*rows, (await mine.logits()), await file.logits()]

    with Machine(model=Script("Me."), page_size=4) as m:
        after_me, again, anew, first = run_program(main, machine=m)

    assert after_me == again != anew == first


@pytest.mark.parametrize(
    "wants", [{"a": 0.7, "b": 0.7}, {"a": -0.1}, {}, {VOCAB_SIZE: 1.0}], ids=["over one", "negative", "none", "unknown token"]
)
def test_what_is_no_law_is_refused(wants):
    with pytest.raises(InvalidArgument, match="after 'x'"):
        Script({"x": wants})
