"""Cases on SymphonyAsyncScheduler with two steps in flight, forced on the CPU: run by test_async.py in a process of their own."""

from __future__ import annotations

from typing import Any

from tests.counts import FULL
from tests.engine import pressure, test_generate, test_grammar, test_reference
from tests.engine.conftest import tiny_args
from tests.engine.driver import Driver


def engine_args() -> Any:
    return forced(tiny_args())


def forced(args: Any) -> Any:
    """The CPU platform switches asynchronous scheduling off while it makes the config: switch it on behind its back."""
    make = args.create_engine_config

    def create_engine_config(*a: Any, **kw: Any) -> Any:
        config = make(*a, **kw)
        config.scheduler_config.async_scheduling = True
        return config

    args.create_engine_config = create_engine_config
    return args


def case_two_steps_are_in_flight(dev: Driver) -> None:
    assert type(dev.host.scheduler).__name__ == "SymphonyAsyncScheduler"
    assert dev.host.core.batch_queue_size == 2


def case_programs_give_plain_vllms_tokens(dev: Driver) -> None:
    test_reference.test_32_programs_that_decode_token_by_token_give_plain_vllms_tokens_and_logprobs(dev)
    test_reference.test_plain_requests_beside_programs_give_what_they_give_alone(dev)


def case_chunks_forks_and_truncation(dev: Driver) -> None:
    test_reference.test_all_positions_over_several_chunks_equal_single_steps(dev)
    test_reference.test_forks_of_forks_diverge_and_each_equals_a_recompute(dev)
    for length in (1, 31, 32, 33, 64, 65):
        test_reference.test_an_empty_forward_gives_the_row_after_the_last_token(dev, length)
        test_reference.test_a_truncated_file_goes_on_like_a_fresh_one(dev, length)
    test_reference.test_positions_with_gaps_equal_transformers_with_these_positions(dev)


def case_greedy_splits_are_equal(dev: Driver) -> None:
    for name in test_generate.GREEDY if FULL else ("greedy", "all"):
        test_generate.test_a_generate_equals_any_split_of_it(dev, name)


def case_seeded_splits_are_equal(dev: Driver) -> None:
    for name in test_generate.SEEDED if FULL else ("temperature", "everything"):
        test_generate.test_a_generate_equals_any_split_of_it(dev, name)
    test_generate.test_a_seeded_generate_begins_with_a_prefill_of_several_chunks(dev)


def case_penalties_count_what_plain_vllm_counts(dev: Driver) -> None:
    test_generate.test_penalties_count_what_plain_vllm_counts(dev)
    test_generate.test_splits_of_many_programs_in_one_batch_are_equal_too(dev)


def case_until(dev: Driver) -> None:
    test_generate.test_until_hands_back_the_row_that_fired_and_keeps_it(dev)
    test_generate.test_every_predicate_fires_first_where_its_definition_holds(dev)
    for n in (31, 32, 33, 64, 96):
        test_generate.test_until_at_a_page_boundary_leaves_a_file_that_goes_on(dev, n)


def case_stop_strings_and_tokens(dev: Driver) -> None:
    test_generate.test_a_stop_string_ends_the_file_with_the_token_that_completes_it(dev)
    test_generate.test_stop_tokens_end_it_and_are_in_the_file(dev)
    test_generate.test_the_models_end_token_ends_it_unless_ignored(dev)
    test_generate.test_generate_runs_up_to_the_position_limit(dev)


def case_grammars(dev: Driver) -> None:
    test_grammar.test_output_is_valid_and_splits_are_equal(dev, "json", "greedy")
    test_grammar.test_output_is_valid_and_splits_are_equal(dev, "choice", "seeded")
    test_grammar.test_forks_continue_the_grammar_where_the_file_stood(dev)


def case_cancel_drop_and_fork_while_steps_are_in_flight(dev: Driver) -> None:
    pressure.case_cancel_of_a_running_generate_keeps_what_was_delivered(dev)
    pressure.case_cancel_between_the_chunks_of_a_prefill_leaves_the_file_as_it_was(dev)
    pressure.case_drop_of_a_file_whose_job_runs_frees_it(dev)
    pressure.case_fork_while_the_source_generates(dev)
    pressure.case_fork_of_a_forward_between_its_chunks(dev)
    pressure.case_random_cancels_drops_and_forks_leave_nothing(dev)


def case_rest(dev: Driver) -> None:
    pressure.case_an_idle_engine_makes_no_step(dev)
