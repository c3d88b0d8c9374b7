"""Conditions and grammars are data."""

import json

import pytest

from vllm_symphony import lip
from vllm_symphony.abi.types import Grammar, Predicate, pack_tokens


def test_comparisons_make_predicates():
    assert (lip.entropy > 2).data == Predicate("entropy", 2.0)
    assert (lip.top1 < 0.4).data == Predicate("top1", 0.4, below=True)
    assert (lip.margin < 0.1).data == Predicate("margin", 0.1, below=True)
    assert (lip.mass([1, 2]) > 0.5).data == Predicate("mass", 0.5, tokens=pack_tokens([1, 2]))
    assert lip.best_in([7]).data == Predicate("top1_in", tokens=pack_tokens([7]))
    assert lip.after(8).data == Predicate("after", 8.0)
    assert lip.every(16).data == Predicate("every", 16.0)


def test_and_and_or_flatten_what_is_alike_and_nest_what_is_not():
    a, b, c = lip.after(1), lip.after(2), lip.after(3)

    assert (a & b & c).data == Predicate("and", parts=(a.data, b.data, c.data))
    assert (a | (b & c)).data == Predicate("or", parts=(a.data, Predicate("and", parts=(b.data, c.data))))
    assert ((a | b) | c).data == (a | (b | c)).data


def test_python_words_and_chains_are_refused_instead_of_losing_a_half():
    with pytest.raises(TypeError, match="&"):
        lip.after(1) and lip.after(2)
    with pytest.raises(TypeError):
        _ = 0.1 < lip.margin < 0.5
    with pytest.raises(TypeError):
        _ = lip.after(1) & True
    with pytest.raises(TypeError):
        _ = lip.entropy >= 1


def test_tokens_of_a_predicate_are_checked():
    with pytest.raises(lip.InvalidArgument):
        lip.mass([-1])
    with pytest.raises(lip.InvalidArgument):
        lip.best_in(["a"])


def test_grammars_are_data():
    schema = {"type": "object"}

    assert lip.json(schema) == lip.json(json.dumps(schema)) == Grammar("json", '{"type": "object"}')
    assert lip.regex("[ab]+") == Grammar("regex", "[ab]+")
    assert lip.ebnf('root ::= "a"') == Grammar("ebnf", 'root ::= "a"')
    assert lip.choice(("a", "b")) == Grammar("choice", '["a", "b"]')


@pytest.mark.parametrize("options", [[], [""], [1]])
def test_a_choice_of_nothing_is_refused(options):
    with pytest.raises(lip.InvalidArgument):
        lip.choice(options)


def test_a_schema_that_is_no_json_is_refused():
    with pytest.raises(lip.InvalidArgument):
        lip.json({"enum": [object()]})


def test_lips_json_leaves_pythons_json_alone():
    assert json.loads("1") == 1
    assert callable(lip.json)
