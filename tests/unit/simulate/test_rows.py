"""The rows of docs/scheduling.md: pictures are the same each time, and what they claim holds at a small size."""

from __future__ import annotations

from vllm_symphony.simulate import rows
from vllm_symphony.simulate.bars import Bar, draw
from vllm_symphony.simulate.trace import Gap, Script, Singles, Trace, Turn


def test_a_picture_is_the_same_each_time_and_says_its_values() -> None:
    groups = {"seconds <mean>": [Bar("a & b", 2.0), Bar("c", 0.5)]}

    picture = draw(groups)

    assert picture == draw(groups)
    assert "seconds &lt;mean&gt;" in picture and "a &amp; b" in picture and ">0.5<" in picture


def test_a_row_is_played_and_drawn(tmp_path, capsys) -> None:
    rows.main([str(tmp_path), "--programs", "3", "--row", "agents"])

    assert "at the server" in capsys.readouterr().out
    assert (tmp_path / "agents.svg").read_text().startswith("<svg")


def test_a_client_pays_a_round_trip_for_each_call_and_each_tool() -> None:
    script = Script(0.0, "p", (Turn(3, 1), Gap("tool", 0.5), Turn(1, 2), Turn(1, 2), Singles(4, 0.25)))

    (far,) = Trace("t", (script,)).by_client(0.25).scripts

    again = Gap("client", 0.25)
    assert far.steps == (Turn(3, 1), Gap("tool", 0.75), Turn(1, 2), again, Turn(1, 2), again, Singles(4, 0.5))


def test_in_lock_step_the_cohort_loses_nothing_to_one_that_is_late() -> None:
    found = {(title, bar.label): bar.value for title, bar in rows.batching(0, (8,))}
    alike, late = (f"batching, {label}: tokens a second of a program" for label in ("all alike", "one late"))

    assert found[late, "cohort, 8"] >= 0.9 * found[alike, "cohort, 8"]
    assert found[alike, "cohort, 8"] > max(found[alike, f"{other}, 8"] for other in ("immediate", "k-or-t", "rate"))
