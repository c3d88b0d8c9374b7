"""Each example runs as it would for a user, on each machine, and shows what it claims where the model permits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.host import eventually
from vllm_symphony.abi.calls import Kill, Ps

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
NEEDED = {"best_of_n": {"question": "Where is the boat?"}, "agent_memory": {"forget": True}}

GREEDY = """
from vllm_symphony import lip

async def main(question: str, max_tokens: int):
    async with lip.open(tokens=lip.render_chat(question)) as chat:
        return (await chat.generate(max_tokens)).tokens
"""


def play(host, name, **args):
    return host.run((EXAMPLES / f"{name}.py").read_text(), **args).value


@pytest.mark.parametrize("name", NAMES)
def test_every_example_runs_with_its_defaults(host, name):
    assert play(host, name, **NEEDED.get(name, {})) is not None


def test_ngram_speculation_gives_exactly_greedys_tokens(host):
    question = "Say the boat the boat the boat the boat."

    result = play(host, "ngram_speculation", question=question, max_tokens=96)

    assert result["tokens"] == host.run(GREEDY, question=question, max_tokens=96).value
    assert result["forwards"] <= len(result["tokens"]) + 1


def test_grammar_makes_json_of_the_schema(host):
    person = play(host, "json_grammar")

    assert set(person) == {"name", "born", "field"}
    assert isinstance(person["name"], str) and isinstance(person["born"], int)
    assert person["field"] in ("science", "art", "politics", "sport", "other")


def test_beam_search_is_at_least_as_likely_as_greedy(host):
    wide = play(host, "beam_search", width=4, max_tokens=8)
    narrow = play(host, "beam_search", width=1, max_tokens=8)

    assert wide["logprob"] >= narrow["logprob"] - 1e-4


def test_a_seeded_sampler_loop_repeats(host):
    once, again = (play(host, "sampler_loop", max_tokens=24, seed=5) for _ in range(2))

    assert once == again


def test_an_attention_sink_goes_far_past_the_models_positions(host):
    result = play(host, "attention_sink", sink=4, window=64, laps=4.0)

    assert result["seen"] >= 4 * result["positions"]
    assert result["kept"] < result["positions"]
    assert result["lineage"] == "approximate"


SHARING = """
from vllm_symphony import lip

async def main(num_readers: int):
    async with lip.open(text="The lamp is lit at dusk and put out at dawn. " * 20) as book, lip.group() as g:
        await book.forward()
        lip.emit((await book.stat()).num_pages)
        for _ in range(num_readers):
            g.start(read, book)

async def read(book):
    async with book.fork() as mine:
        assert (await mine.stat()).frontier == book.length
        await mine.append(" And")
        await mine.generate(4, ignore_eos=True)
        lip.emit("computed")
        await lip.sleep(600)
"""


def test_readers_share_the_pages_of_what_one_computed(host):
    if host.name == "sim":
        pytest.skip("looks at the device beside the running program")
    pid = host.spawn(SHARING, num_readers=30)
    eventually(lambda: host.client.ask("ps", Ps(pid)).processes[0].waiting.count("sleep") == 30, "the readers do not come to rest")

    held = host.device.counters()["pages_held"]
    host.client.ask("kill", Kill(pid, "KILL"))

    num_pages = host.wait(pid).emitted[0]
    assert num_pages <= held <= num_pages + 30 * 2
