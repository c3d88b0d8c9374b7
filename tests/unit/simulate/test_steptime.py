"""The step-time function and its fit."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.simulate import steptime
from vllm_symphony.simulate.steptime import Chunk, StepTime, fit

TRUE = StepTime(5e-3, 1e-5, 2e-5, 3e-8, 2e-9)


def batches(random: Random, count: int) -> list[list[Chunk]]:
    return [
        [Chunk(random.choice((1, 1, 1, random.randrange(2, 512))), random.randrange(2000)) for _ in range(random.randrange(1, 32))]
        for _ in range(count)
    ]


def test_the_fit_finds_the_coefficients_that_made_the_times() -> None:
    steps = [(batch, TRUE.of(batch)) for batch in batches(Random(1), 100)]

    found = fit(steps)

    assert [found.step_s, found.row_s, found.token_s, found.read_s, found.attend_s] == pytest.approx(
        [TRUE.step_s, TRUE.row_s, TRUE.token_s, TRUE.read_s, TRUE.attend_s], rel=1e-6
    )
    assert max(steptime.errors(found, steps)) < 1e-6


def test_no_coefficient_is_negative_however_noisy_the_times_are() -> None:
    random = Random(2)
    steps = [(batch, TRUE.of(batch) * random.uniform(0.5, 1.5)) for batch in batches(random, 30)]

    found = fit(steps)

    assert min(found.step_s, found.row_s, found.token_s, found.read_s, found.attend_s) >= 0


def test_a_part_that_was_never_seen_costs_nothing() -> None:
    steps = [([Chunk(1, 10 * rows)] * rows, 1e-3 + 1e-5 * rows) for rows in range(1, 20)]

    assert fit(steps).attend_s == 0


def test_saved_coefficients_are_loaded_again(tmp_path: Path) -> None:
    TRUE.save(tmp_path / "step.json")

    assert steptime.load(tmp_path / "step.json") == TRUE


@pytest.mark.parametrize("text", ["", "{}", '{"step_s": 1}', "[1]"])
def test_a_file_without_coefficients_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "step.json").write_text(text)

    with pytest.raises(InvalidArgument, match="calibrate"):
        steptime.load(tmp_path / "step.json")


def test_steps_during_which_the_machine_was_busy_elsewhere_change_little() -> None:
    random = Random(3)
    steps = [(batch, TRUE.of(batch) * (3.0 if i % 4 == 0 else 1.0)) for i, batch in enumerate(batches(random, 200))]

    found = fit(steps)

    assert found.step_s == pytest.approx(TRUE.step_s, rel=0.02)
    assert found.token_s == pytest.approx(TRUE.token_s, rel=0.02)
