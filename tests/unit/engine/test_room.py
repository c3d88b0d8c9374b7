"""Claims of jobs that wait for room: what younger ones may not take meanwhile."""

from __future__ import annotations

from vllm_symphony.engine.room import Claims


def test_while_an_older_job_is_short_younger_ones_load_nothing_but_may_begin_on_what_is_free():
    claims = Claims()

    claims.look({"old": 1.0, "young": 2.0})
    claims.missed("old", 1.0, pages_move=False)

    assert not claims.allow(2.0, is_below=True) and claims.allow(2.0, is_below=False)
    assert claims.allow(1.0, is_below=True) and claims.allow(0.5, is_below=True)


def test_pages_that_move_are_for_the_oldest_that_waits_for_them():
    claims = Claims()
    claims.look({"old": 1.0})
    claims.missed("old", 1.0, pages_move=True)

    claims.look({"old": 1.0, "young": 2.0})

    assert not claims.allow(2.0, is_below=False)
    claims.missed("old", 1.0, pages_move=False)  # they have come, and are not enough yet
    claims.look({"old": 1.0, "young": 2.0})
    assert not claims.allow(2.0, is_below=False)


def test_a_job_that_has_waited_long_is_passed_by_none():
    claims = Claims()
    claims.look({"old": 1.0, "young": 2.0})

    claims.missed("old", 1.0, pages_move=False, waited_long=True)

    assert not claims.allow(2.0, is_below=False)


def test_who_found_room_or_waits_no_more_claims_nothing():
    claims = Claims()
    claims.look({"met": 1.0, "gone": 1.5, "young": 2.0})
    claims.missed("met", 1.0, pages_move=True)
    claims.missed("gone", 1.5, pages_move=True)
    claims.met("met")

    claims.look({"young": 2.0})

    assert claims.allow(2.0, is_below=True)
