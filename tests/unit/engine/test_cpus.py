"""Which CPUs programs run on."""

import pytest

from vllm_symphony.engine.cpus import VARIABLE, program_cpus
from vllm_symphony.errors import InvalidArgument


@pytest.mark.parametrize(
    ("ours", "told", "theirs"),
    [
        ({0, 1}, "", [0, 1]),
        ({5, 3, 4}, "", [3, 4, 5]),
        (range(4), "", [2, 3]),
        (range(8), "", [4, 5, 6, 7]),
        (range(8), "all", [0, 1, 2, 3, 4, 5, 6, 7]),
        (range(8), "1,6-20", [1, 6, 7]),
    ],
)
def test_with_enough_of_them_the_engine_has_half_for_itself(ours, told, theirs):
    assert program_cpus(ours, {VARIABLE: told}) == theirs


@pytest.mark.parametrize("told", ["8", "-", "a", "1,,2", "3-b"])
def test_a_list_that_means_nothing_here_is_refused(told):
    with pytest.raises(InvalidArgument, match=VARIABLE):
        program_cpus(range(4), {VARIABLE: told})
