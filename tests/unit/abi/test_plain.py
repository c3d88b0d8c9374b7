"""Text of programs on a terminal: nothing of it steers the terminal, and nothing readable is lost."""

import pytest

from vllm_symphony.abi.plain import plain, plain_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # C1: an escape sequence in one byte
        ("a\rb\x08c\x7f", r"a\rb\x08c\x7f"),
        ("txt.\u202egpj", r"txt.\u202egpj"),  # reads backwards
        ("\ufeffhidden\u200b", r"\ufeffhidden\u200b"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_would_steer_is_shown_as_its_escape(text, shown):
    assert plain(text) == plain_lines(text) == shown


@pytest.mark.parametrize("text", ["héllo wörld", "日本語\u3000です", "👩\u200d💻", "क्\u200dष", "a\u00a0b", ""])
def test_what_people_read_stays(text):
    assert plain(text) == plain_lines(text) == text


def test_lines_stay_lines_where_there_may_be_several():
    assert plain("a\n\tb") == r"a\n\tb"
    assert plain_lines("a\n\tb\r\n") == "a\n\tb\n"
    assert plain_lines("50%\r99%") == r"50%\r99%"
