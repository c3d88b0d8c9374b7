"""Each example on a machine whose model is scripted: it runs, shows what it claims, and leaves no file."""

from pathlib import Path

import pytest

from vllm_symphony.engine.sim.model import END
from vllm_symphony.lip.program import parse
from vllm_symphony.testing import Machine, SimModel

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(p.stem for p in EXAMPLES.glob("*.py"))
NEEDED = {"best_of_n": {"question": "Who?"}, "agent_memory": {"forget": True}}


def play(machine, name, **args):
    run = machine.start(EXAMPLES / f"{name}.py", **args)
    machine.run()
    return run


@pytest.mark.parametrize("name", NAMES)
def test_every_example_runs_with_its_defaults_and_leaves_no_file(machine, name):
    run = play(machine, name, **NEEDED.get(name, {}))

    assert run.value
    assert run.left_open == machine.files() == []


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_what_it_shows_and_documents_its_options(name):
    source = (EXAMPLES / f"{name}.py").read_text()

    program = parse(source)

    assert len(source.splitlines()) < 60
    assert source.startswith('"""')
    assert program.summary
    assert all(option.help for option in program.options)


def test_ngram_speculation_gives_exactly_what_the_model_wants_with_fewer_forwards(machine):
    wanted = "tick tock " * 10
    machine.script({"Again!": wanted}, otherwise=SimModel())  # it also asks what would follow wrong guesses

    run = play(machine, "ngram_speculation", question="Again!", max_tokens=120)

    assert run.value["tokens"] == [*wanted.encode(), END]
    assert run.value["forwards"] == len(machine.calls(run, "forward")) < 40


def test_a_wide_beam_finds_what_greedy_passes_by(machine):
    """`b` begins the likelier text, although `a` is the likelier letter."""
    machine.script({"Say:": {"ax": 0.18, "ay": 0.18, "az": 0.18, "b": 0.46}})

    wide = play(machine, "beam_search", question="Say:", width=2, max_tokens=4).value
    narrow = play(machine, "beam_search", question="Say:", width=1, max_tokens=4).value

    assert (wide["text"], narrow["text"][0]) == ("b", "a")
    assert wide["logprob"] > narrow["logprob"]


def test_entropy_branch_goes_where_the_model_will_be_sure_and_pays_per_branch(machine):
    """`r` is the likeliest letter after "Pack a ", but only after `l` is all clear."""
    texts = {"rope": 0.2, "rag": 0.2, "lamp": 0.35, "torch": 0.13, "trunk": 0.12}
    machine.script({"moon?": {f"Pack a {text}.": p for text, p in texts.items()}})

    run = play(machine, "entropy_branch", question="moon?", entropy=1.0, width=3)

    assert run.value == {"text": "Pack a lamp.", "branches": 1}
    assert len(machine.calls(run, "generate")) == 2 + 3  # up to the branch and on from it, one a look ahead
    assert machine.calls(run, "forward") == []


def test_best_of_n_computes_its_prompt_once(machine):
    machine.script("me")

    run = play(machine, "best_of_n", question="Who?", n=3)

    assert run.value == "me"
    ops = [call.op for call in machine.calls(run)]
    assert ops.count("forward") == 1
    assert ops.count("fork") == ops.count("generate") == 3


def test_shared_prefix_readers_open_what_one_process_computed(machine):
    machine.script({"book.": "", "book.Question: a?\nAnswer:": " one", "book.Question: b?\nAnswer:": " two"})

    run = play(machine, "shared_prefix", text="Handbook.", questions=["a?", "b?"])

    assert run.value == {"a?": "one", "b?": "two"}
    assert len(machine.calls(run, "spawn")) == 2


def test_a_prompt_library_is_its_authors_to_change_and_everybodys_to_read(machine):
    run = play(machine, "prompt_library")

    assert list(run.value["answers"]) == ["brief", "polite"]
    assert run.value["new"] == [True]
    assert [line.split()[:2] for line in run.value["shelf"]] == [["644", "ann"]] * 2
    readers = [pid for pid in machine.runs if pid != run.pid]
    assert all("forward" not in [call.op for call in machine.calls(pid)] for pid in readers)


def test_an_attention_sink_goes_on_far_past_the_models_positions(machine):
    run = play(machine, "attention_sink", laps=5.0)

    assert run.value["seen"] >= 5 * run.value["positions"]
    assert run.value["kept"] <= run.value["positions"] // 2 + 128
    assert run.value["lineage"] == "approximate"
    assert len(machine.calls(run, "extract")) >= 5


def test_an_agents_memory_outlives_the_machine(tmp_path):
    def tell(say):
        with Machine(seed=1, state_dir=tmp_path / "state") as machine:
            run = play(machine, "agent_memory", say=say)
            machine.settle()
            return run.value

    first, second = tell("The boat comes on Monday."), tell("When does it come?")

    assert (first["turns"], first["known"], first["kept"]) == (1, 0, True)
    assert second["turns"] == 2
    assert second["known"] > len("Visitor: The boat comes on Monday.")
