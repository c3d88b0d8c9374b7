"""Where we sit in vLLM, and what has no seat for us (engine/embedded.py, engine/compat.py, engine/plugin.py)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vllm_symphony.engine import compat
from vllm_symphony.engine.seats import SCHEDULER, WORKER
from vllm_symphony.errors import NotSupported


def launch(**more: Any) -> Any:
    """vLLM's EngineArgs, as far as they are looked at."""
    return SimpleNamespace(**{"scheduler_cls": None, "worker_cls": "auto", "_api_process_count": 1, **more})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scheduler_cls": "their.Scheduler"}, "drop --scheduler-cls their.Scheduler"),
        ({"worker_cls": "their.Worker"}, "drop --worker-cls their.Worker"),
        ({"_api_process_count": 4}, "use --api-server-count 1"),
    ],
)
def test_a_launch_without_a_seat_for_us_is_refused_with_the_flag_to_change(given, said):
    with pytest.raises(NotSupported, match=said):
        compat.check_launch(launch(**given))


@pytest.mark.parametrize("given", [{}, {"scheduler_cls": SCHEDULER, "worker_cls": WORKER}])
def test_seats_that_vllm_fills_or_that_are_ours_already_are_taken(given):
    compat.check_launch(launch(**given))


@pytest.mark.parametrize("is_async", [False, True])
def test_the_scheduler_is_vllms_choice_with_us_in_front(is_async):
    """On a CPU vLLM never schedules asynchronously: that one is chosen where it would be is all that can be forced here."""
    pytest.importorskip("vllm")
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler

    from vllm_symphony.engine import scheduler

    chosen: list[type] = []
    config = SimpleNamespace(scheduler_config=SimpleNamespace(async_scheduling=is_async))
    for cls in (scheduler.SymphonyScheduler, scheduler.SymphonyAsyncScheduler):
        assert cls.__mro__[1:3] == (scheduler.ControlMixin, scheduler.SymphonyMixin)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SymphonyScheduler", "SymphonyAsyncScheduler"):
            cls = getattr(scheduler, name)
            patch.setattr(scheduler, name, lambda cls=cls, **_: chosen.append(cls))
        scheduler.scheduler_for(vllm_config=config)

    assert issubclass(chosen[0], AsyncScheduler) == is_async


def test_the_kernel_lives_in_vllms_engine_process(server_b):
    assert "EngineCore" in server_b.engine.cmdline()[0]
    assert server_b.web.children() and server_b.engine in server_b.web.children()


def test_every_private_member_of_vllm_that_is_touched_is_there():
    assert compat.missing_seams() == []
