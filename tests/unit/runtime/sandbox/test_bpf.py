import struct

import pytest

from tests.unit.runtime.sandbox.bpf_machine import answer
from vllm_symphony.runtime.sandbox.bpf import JUMP_IF_ANY_BIT, JUMP_IF_AT_LEAST, JUMP_IF_GREATER, MAX_JUMP, Assembler


def run(code: Assembler, number: int) -> int:
    return answer(code.assemble(), arch=0, number=number)


def test_an_instruction_is_eight_bytes_in_the_order_of_the_system():
    code = Assembler()
    code.load(4)
    code.give(7)

    assert code.assemble() == struct.pack("=HBBI", 0x20, 0, 0, 4) + struct.pack("=HBBI", 0x06, 0, 0, 7)


@pytest.mark.parametrize(
    ("jump", "k", "passes", "fails"),
    [(JUMP_IF_GREATER, 5, 6, 5), (JUMP_IF_AT_LEAST, 5, 5, 4), (JUMP_IF_ANY_BIT, 6, 2, 9), (0x15, 5, 5, 6)],
)
def test_a_jump_goes_to_its_label_if_the_comparison_holds_and_to_the_other_if_not(jump, k, passes, fails):
    code = Assembler()
    code.load(0)
    code.jump(jump, k, then="yes", otherwise="no")
    code.give(0)
    code.mark("no")
    code.give(1)
    code.mark("yes")
    code.give(2)

    assert (run(code, passes), run(code, fails)) == (2, 1)


def test_a_mask_is_applied_before_the_comparison():
    code = Assembler()
    code.load(0)
    code.mask(0xF0)
    code.jump_if_equal(0x30, then="yes")
    code.give(0)
    code.mark("yes")
    code.give(1)

    assert (run(code, 0x3F), run(code, 0x4F)) == (1, 0)


@pytest.mark.parametrize(("between", "fits"), [(MAX_JUMP, True), (MAX_JUMP + 1, False)])
def test_a_jump_that_cannot_be_encoded_is_an_error(between, fits):
    code = Assembler()
    code.jump_if_equal(1, then="far")
    for _ in range(between):
        code.give(0)
    code.mark("far")
    code.give(1)

    if fits:
        assert code.assemble()
    else:
        with pytest.raises(ValueError, match="a jump of 256 instructions to 'far'"):
            code.assemble()


def test_a_label_behind_the_last_instruction_nowhere_or_twice_is_an_error():
    ends, nowhere, twice = Assembler(), Assembler(), Assembler()
    ends.jump_if_equal(1, then="end")
    ends.mark("end")
    nowhere.jump_if_equal(1, then="lost")
    twice.mark("a")

    with pytest.raises(ValueError, match="to 'end'"):
        ends.assemble()
    with pytest.raises(ValueError, match="'lost' is nowhere"):
        nowhere.assemble()
    with pytest.raises(ValueError, match="'a' is marked twice"):
        twice.mark("a")


def test_a_jump_back_is_an_error_here_and_not_in_the_system():
    code = Assembler()
    code.mark("again")
    code.load(0)
    code.jump_if_equal(1, then="again")
    code.give(0)

    with pytest.raises(ValueError, match="a jump of -2"):
        code.assemble()


def test_more_instructions_than_the_system_takes_are_an_error():
    code = Assembler()
    for _ in range(4097):
        code.give(0)

    with pytest.raises(ValueError, match="4097 instructions"):
        code.assemble()
