"""A program's options are read from its text; arguments are made to fit its signature."""

from typing import Literal

import pytest

from vllm_symphony.errors import BadProgram
from vllm_symphony.lip.program import Option, abi_of, bind_arguments, parse

SOURCE = '''
"""The module."""
import nothing_that_exists
FEW = ["a", "b"]
async def main(question: str, n: int = 4, *, heat: "float" = 0.5, loud: bool = False, tags: list[str] = FEW,
               name: str | None = None, limit=3, deep: dict[str, int] = dict()) -> str:
    """Answer the question,
    well.

    More of it.

    Args:
        question: what to ask,
            in any language
        n (int): how many drafts
        heat:
            how free: 0 is not
    Returns:
        the answer
    """
'''


def test_options_come_from_the_signature_without_running_it():
    program = parse(SOURCE)

    assert program.summary == "Answer the question, well."
    assert program.options == (
        Option("question", "str", None, True, False, "what to ask, in any language"),
        Option("n", "int", 4, False, False, "how many drafts"),
        Option("heat", "float", 0.5, False, False, "how free: 0 is not"),
        Option("loud", "bool", False, False),
        Option("tags", "list[str]", ["a", "b"], False),
        Option("name", "str", None, False, True),
        Option("limit", "int", 3, False),
        Option("deep", "json", "dict()", False),
    )
    assert "More of it." in program.doc
    assert "what to ask" not in program.doc


def test_the_modules_docstring_stands_in():
    assert parse('"""Shows a claim."""\ndef main(): pass').summary == "Shows a claim."


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def main(:", "line 1"),
        ("x = 1", "no function main"),
        ("class A:\n def main(self): pass", "no function main"),
        ("def main(*args): pass", "by name"),
        ("def main(**kw): pass", "by name"),
        ("def main(a, /): pass", "by name"),
        ("a = '\0'", "does not parse"),
        ("(" * 500 + ")" * 500, "does not parse"),
    ],
)
def test_what_is_no_program_is_refused_with_the_reason(source, says):
    with pytest.raises(BadProgram, match=says):
        parse(source)


def fn(
    s: str, i: int = 0, f: float = 0.0, b: bool = False, xs: list[str] | None = None, m: Literal["a", "b"] = "a",
    d: dict[str, int] | None = None, anything=None,
):  # fmt: skip
    """Not called."""


def test_json_values_fit_their_types():
    args = {"s": "x", "i": 3.0, "f": 2, "b": True, "xs": ["a"], "m": "b", "d": {"k": 1}, "anything": [1, {}]}

    bound = bind_arguments(fn, args)

    assert bound == args
    assert type(bound["i"]) is int and type(bound["f"]) is float
    assert bind_arguments(fn, {"s": "x", "xs": None}) == {"s": "x", "xs": None}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "fn needs s"),
        ({"s": "x", "q": 1, "r": 2}, r"takes no q, r \(it takes: s, i"),
        ({"s": 1}, "fn: s must be str, not 1"),
        ({"s": "x", "i": "3"}, "fn: i must be int, not '3'"),
        ({"s": "x", "i": 3.5}, "i must be int"),
        ({"s": "x", "i": True}, "i must be int, not True"),
        ({"s": "x", "f": "1"}, "f must be float"),
        ({"s": "x", "b": 1}, "b must be bool"),
        ({"s": "x", "xs": ["a", 1]}, "xs must be list"),
        ({"s": "x", "m": "c"}, "one of 'a', 'b'"),
        ({"s": "x", "d": {"k": "v"}}, "d must be"),
        ({"s": None}, "s must be str, not None"),
    ],
)
def test_what_does_not_fit_is_refused_with_name_and_type(args, says):
    with pytest.raises(BadProgram, match=says):
        bind_arguments(fn, args)


def test_annotations_that_mean_nothing_at_run_time_ask_for_nothing():
    def odd(a: "NoSuchType"):  # noqa: F821
        """Not called."""

    assert bind_arguments(odd, {"a": 1}) == {"a": 1}


def test_a_function_that_cannot_be_called_by_name_is_refused():
    with pytest.raises(BadProgram, match="by name"):
        bind_arguments(lambda *a: a, {})


@pytest.mark.parametrize(
    ("source", "abi"),
    [
        ('"""Doc."""\n__abi__ = "1.0"\n', "1.0"),
        ("__abi__='2.13'", "2.13"),
        ('x = 1\n# __abi__ = "1.0"', ""),
        ('__abi__ = "one"', ""),
        ("", ""),
    ],
)
def test_a_text_may_say_which_abi_it_was_written_for(source, abi):
    assert abi_of(source) == abi
