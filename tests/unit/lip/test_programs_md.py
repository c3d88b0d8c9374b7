"""Every program of the author guide runs."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.unit.lip.toy import ToyTransport, run
from vllm_symphony.lip.program import parse

GUIDE = Path(__file__).parents[3] / "docs" / "programs.md"
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_a_block_of_the_guide_is_a_program_that_runs(block):
    source = BLOCKS[block]
    names: dict = {"__name__": "program"}
    exec(compile(source, f"programs.md, block {block}", "exec"), names)
    args = {option.name: "Who?" for option in parse(source).options if option.required}
    toy = ToyTransport(program=names)

    assert asyncio.run(run(toy, names["main"], args))
    assert not toy.left_open and not toy.machine.names


def test_the_guide_has_its_blocks():
    assert len(BLOCKS) == 5
