"""The file system against a model of it: random operations of many principals, the same answer or the same error from both."""

import pytest

from tests.counts import count, seed_for
from tests.model.kvfs.driver import Op
from tests.model.kvfs.search import run_all, run_random

NUM_RUNS = 20


@pytest.mark.parametrize("number", range(NUM_RUNS))
def test_any_sequence_of_operations_is_as_the_model_says(number: int) -> None:
    run_random(seed_for(f"kvfs {number}"), num_ops=count(400, 6000))


def test_an_edit_that_is_cancelled_while_its_pages_come_back_leaves_nothing() -> None:
    run_all(
        [
            Op(1, "eve", "open", {"path": "/c", "flags": 3, "tokens": [116, 105]}),
            Op(2, "eve", "forward", {"fd": 1, "tokens": [], "top_k": 1}),
            Op(3, "eve", "advise", {"fd": 1, "advice": "dontneed", "wait": True}),
            Op(4, "eve", "extract", {"fd": 1, "spans": ((1, 2),), "positions": "compact"}, wait=False),
            Op(5, "eve", "step", {}),
            Op(6, "eve", "cancel", {"target": 4}),
            Op(7, "eve", "step", {}),
        ],
        num_pages=100,
    )


def test_a_packed_file_that_is_kept_no_more_can_be_packed_again() -> None:
    run_all(
        [
            Op(1, "root", "open", {"path": "/c", "flags": 3, "tokens": [116, 105]}),
            Op(2, "root", "forward", {"fd": 1, "tokens": [], "top_k": 1}),
            Op(3, "root", "repack", {"path": "/c", "to": "/d", "pages": True}),
            Op(4, "root", "rename", {"old": "/d", "new": "/tmp/d"}),
            Op(5, "root", "repack", {"path": "/tmp/d", "to": "/e", "pages": True}),
        ],
        num_pages=100,
    )


def test_what_was_saved_of_a_file_that_is_kept_nowhere_is_not_kept_when_it_moves() -> None:
    run_all(
        [
            Op(1, "root", "open", {"flags": 17, "tokens": [110, 110, 111, 101, 105]}),
            Op(2, "root", "extract", {"fd": 1, "spans": ((2, 5),), "positions": "compact"}),
            Op(3, "root", "link", {"fd": 2, "path": "/tmp/c"}),
            Op(4, "root", "repack", {"path": "/tmp/c", "to": "/tmp/d", "pages": True}),
            Op(5, "root", "gc", {}),
            Op(6, "root", "fsck", {"path": "/tmp/c"}),
            Op(7, "root", "rename", {"old": "/tmp/c", "new": "/home/c"}),
            Op(8, "root", "rename", {"old": "/tmp/d", "new": "/home/d"}),
            Op(9, "root", "restart", {"crash": False}),
        ],
        num_pages=100,
    )


def test_one_token_that_was_cut_out_is_there_after_a_restart() -> None:
    run_all(
        [
            Op(1, "root", "open", {"flags": 17, "tokens": [110, 110, 111, 101, 105]}),
            Op(2, "root", "extract", {"fd": 1, "spans": ((2, 3),), "positions": "compact"}),
            Op(3, "root", "link", {"fd": 2, "path": "/home/c"}),
            Op(4, "root", "extract", {"fd": 1, "spans": ((2, 5),)}),
            Op(5, "root", "truncate", {"fd": 4, "length": 1}),
            Op(6, "root", "link", {"fd": 4, "path": "/home/d"}),
            Op(7, "root", "restart", {"crash": False}),
        ],
        num_pages=100,
    )


def test_a_fork_of_an_edited_file_that_is_cut_needs_the_page_that_it_lost() -> None:
    run_all(
        [
            Op(1, "ann", "open", {"flags": 17, "tokens": [110, 110, 111, 101, 105]}),
            Op(2, "ann", "extract", {"fd": 1, "spans": ((2, 5),)}),
            Op(3, "ann", "forward", {"fd": 2, "tokens": [105, 101]}),
            Op(4, "ann", "fork", {"fd": 2}),
            Op(5, "root", "setquota", {"principal": "ann", "device_pages": 1}),
            Op(6, "ann", "truncate", {"fd": 4, "length": 1}),
            Op(7, "ann", "forward", {"fd": 4, "tokens": []}),
        ],
        num_pages=400,
    )
