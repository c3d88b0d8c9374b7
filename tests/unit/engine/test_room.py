"""Claims of jobs that wait for room: what younger ones may not take meanwhile."""

from __future__ import annotations

from vllm_symphony.engine.room import Claims


def claims(*, rows: int = 8, **born: float) -> Claims:
    made = Claims()
    made.look(born, rows=rows)
    return made


def test_while_an_older_job_is_short_younger_ones_load_beside_what_it_needs_and_may_begin_on_what_is_free():
    found = claims(old=1.0, young=2.0)

    found.missed("old", 5, from_all=False)

    assert found.aside(2.0, is_below=True) == 5 and found.aside(2.0, is_below=False) == 0
    assert found.aside(1.0, is_below=True) == found.aside(0.5, is_below=True) == 0


def test_pages_that_move_are_for_the_oldest_that_waits_for_them():
    found = claims(old=1.0)
    found.missed("old", 5, from_all=True)

    found.look({"old": 1.0, "young": 2.0}, rows=8)

    assert found.aside(2.0, is_below=False) == 5
    found.missed("old", 3, from_all=False)  # they have come, and are not enough yet
    found.look({"old": 1.0, "young": 2.0}, rows=8)
    assert found.aside(2.0, is_below=False) == 3


def test_the_older_ones_needs_add_up_and_an_edit_claims_all():
    found = claims(oldest=1.0, old=2.0, young=3.0)
    found.missed("oldest", 5, from_all=True)
    found.missed("old", 2, from_all=True)

    assert [found.aside(born, is_below=True) for born in (1.0, 2.0, 3.0)] == [0, 5, 7]
    found.look({"oldest": 1.0, "young": 3.0}, [1.5], rows=8)
    assert found.aside(3.0, is_below=False) is None and found.aside(1.0, is_below=False) == 0


def test_no_more_make_room_than_there_are_rows_for():
    found = claims(rows=2, a=1.0, b=2.0, c=3.0)

    assert [found.take_row() for _ in range(3)] == [True, True, False]


def test_who_found_room_or_waits_no_more_claims_nothing():
    found = claims(met=1.0, gone=1.5, young=2.0)
    found.missed("met", 4, from_all=True)
    found.missed("gone", 4, from_all=True)
    found.met("met")

    found.look({"young": 2.0}, rows=8)

    assert found.aside(2.0, is_below=True) == 0 and not found.is_tight
