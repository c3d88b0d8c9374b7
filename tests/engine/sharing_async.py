"""The same with two steps in flight (sharing.py): a request that is parked may end meanwhile, and who ends wants no row."""

from __future__ import annotations

from typing import Any

from tests.engine import asynchronous, sharing
from tests.engine.driver import Driver


def engine_args() -> Any:
    return asynchronous.forced(sharing.engine_args())


def case_two_steps_are_in_flight(dev: Driver) -> None:
    asynchronous.case_two_steps_are_in_flight(dev)


def case_rows_are_halved(dev: Driver) -> None:
    sharing.case_rows_are_halved_while_both_want_more(dev)


def case_rows_follow_the_weights(dev: Driver) -> None:
    sharing.case_rows_follow_the_weights(dev)


def case_prompts_halve_the_tokens(dev: Driver) -> None:
    sharing.case_prompts_of_both_sides_halve_the_tokens_and_hold_up_nobody_who_decodes(dev)


def case_old_files_in_use_leave_plain_requests_their_part_of_the_pages(dev: Driver) -> None:
    sharing.case_old_files_in_use_leave_plain_requests_their_part_of_the_pages(dev)
