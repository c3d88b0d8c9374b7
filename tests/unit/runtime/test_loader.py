"""Programs from text, and what their authors see of a failure."""

import asyncio

import pytest

from vllm_symphony.abi.codec import Program
from vllm_symphony.errors import BadProgram
from vllm_symphony.runtime import loader


def load(source, args="{}", entry="main"):
    return loader.load(Program(source, entry, args, "prog.py", 1))


def failure(source):
    entry, kwargs = load(source)
    try:
        result = entry(**kwargs)
        asyncio.run(result)
    except Exception as e:  # noqa: BLE001  whatever the program raises
        return loader.traceback_of(e)
    raise AssertionError("it did not fail")


def test_the_entry_and_its_arguments_are_found():
    entry, kwargs = load("def go(a, b=2): return a + b", '{"a": 1}', entry="go")

    assert entry(**kwargs) == 3


@pytest.mark.parametrize(
    ("source", "args", "says"),
    [
        ("def main(:", "{}", 'File "prog.py", line 1\n    def main(:'),
        ("", "{}", "main"),
        ("main = 1", "{}", "main"),
        ("def main(a): 0", "{}", "a"),
        ("def main(*any): 0", "{}", "by name"),
        ("def main(): 0", "nope", "JSON"),
        ("def main(): 0", "3", "object"),
        ("x = '\0'", "{}", "null bytes"),
    ],
)
def test_what_is_no_program_is_enoexec(source, args, says):
    with pytest.raises(BadProgram, match=None) as e:
        load(source, args)

    assert says in e.value.message


def test_a_traceback_has_the_programs_frames_only():
    text = failure("def f():\n    return 1 // 0\ndef main():\n    f()")

    assert '  File "prog.py", line 4, in main\n    f()\n  File "prog.py", line 2, in f\n    return 1 // 0\n' in text
    assert text.endswith("ZeroDivisionError: integer division or modulo by zero\n") and "runtime/loader.py" not in text


def test_causes_and_groups_keep_their_own_lines():
    text = failure(
        "import asyncio\n"
        "async def bad():\n"
        "    try:\n        {}['k']\n"
        "    except KeyError as e:\n        raise ValueError('outer') from e\n"
        "async def main():\n"
        "    async with asyncio.TaskGroup() as g:\n        g.create_task(bad())\n"
    )

    assert "KeyError: 'k'" in text and "ValueError: outer" in text and "{}['k']" in text
    assert "taskgroups.py" not in text and "direct cause" in text


def test_frames_of_the_library_are_left_out():
    text = failure("from vllm_symphony.abi.types import unpack_tokens\ndef main(): unpack_tokens(b'123')")

    assert "types.py" not in text and text.endswith("ValueError: bytes length not a multiple of item size\n")


def test_a_dataclass_in_a_program_works():
    entry, _ = load("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 3\ndef main(): return A().x")

    assert entry() == 3
