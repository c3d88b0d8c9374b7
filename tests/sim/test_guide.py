"""Every program of the guides for authors runs and leaves no file."""

import re
from pathlib import Path

import pytest

from vllm_symphony.lip.program import parse

GUIDES = [Path(__file__).parents[2] / "docs" / name for name in ("programs.md", "files.md", "registry.md")]
BLOCKS = [block for guide in GUIDES for block in re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)]


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_a_block_of_the_guide_is_a_program_that_runs(machine, block):
    source = BLOCKS[block]
    args = {option.name: "Who?" for option in parse(source).options if option.required}

    run = machine.start(source, **args)
    machine.run()

    assert run.value
    assert run.left_open == machine.files() == []


def test_the_guides_have_their_blocks():
    assert len(BLOCKS) == 9
