import pytest

from vllm_symphony.abi.table import CALLS
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.trace.choice import ALL, KINDS, Choice


def taken(words: str) -> set[str]:
    choice = Choice.of(words)
    return {op for op in CALLS if choice.takes(op)}


def test_calls_and_kinds_are_named_with_commas():
    assert taken("forward,generate") == {"forward", "generate"}
    assert taken("file, sleep") == KINDS["file"] | {"sleep"}


def test_an_exclamation_mark_means_all_but_these():
    assert taken("!sleep") == CALLS.keys() - {"sleep"}
    assert taken("!text,process") == CALLS.keys() - KINDS["text"] - KINDS["process"]


def test_without_a_choice_all_are_taken():
    assert all(ALL.takes(op) for op in CALLS)


def test_kinds_are_calls_and_do_not_overlap():
    assert sum(map(len, KINDS.values())) == len(frozenset().union(*KINDS.values()))
    assert frozenset().union(*KINDS.values()) <= CALLS.keys()


@pytest.mark.parametrize("words", ["", "forwards", "forward,,fork", "forward,!fork"])
def test_an_unknown_word_is_refused(words):
    with pytest.raises(InvalidArgument, match="kinds: file, model, process, text"):
        Choice.of(words)
