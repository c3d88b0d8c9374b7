"""The page on channels: its programs run, find what they say, and leave no file and no channel."""

import re
from pathlib import Path

import pytest

from vllm_symphony.abi.calls import Channels
from vllm_symphony.kernel.limits import DEFAULT

PAGE = (Path(__file__).parents[2] / "docs" / "channels.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FOUND = [[n * n for n in range(10)], [[6, 6], [6, 6]], None, ["hello", "time"]]


def test_the_page_has_its_programs():
    assert len(BLOCKS) == len(FOUND)


@pytest.mark.parametrize("block", range(len(FOUND)))
def test_a_program_of_the_page_finds_what_it_says(machine, block):
    run = machine.start(BLOCKS[block])
    machine.run()

    assert run.value == FOUND[block] or (FOUND[block] is None and run.value)
    assert run.left_open == machine.files() == []
    assert machine.call("channels", Channels()).channels == ()


@pytest.mark.parametrize("number", [
    DEFAULT.channels, DEFAULT.channels_each, DEFAULT.handles, f"{DEFAULT.message_bytes:,}", DEFAULT.message_fds,
    DEFAULT.queue_messages, f"{DEFAULT.queue_bytes >> 20} MiB", f"{DEFAULT.mail_bytes >> 20} MiB",
])  # fmt: skip
def test_the_limits_of_the_page_are_the_kernels(number):
    assert str(number) in PAGE.split("## Limits")[1]
