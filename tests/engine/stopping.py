"""The case of a host that is stopped while jobs run and wait: run by test_death.py in a process of its own."""

from __future__ import annotations

from typing import Any

from tests.engine.conftest import tiny_args
from tests.engine.driver import Driver
from tests.engine.reference import long_prompt, prompts
from vllm_symphony.errors import DeviceLost
from vllm_symphony.kernel.effect import JobFailed

dies = True


def engine_args() -> Any:
    return tiny_args(num_gpu_blocks_override=33, max_model_len=1024)


def case_stop_fails_running_and_waiting_jobs_and_returns(dev: Driver) -> None:
    files = [dev.create(t) for t in prompts(dev, 6)] + [dev.create(long_prompt(dev, 900))]
    jobs = [dev.start_generate(f, 300)[1] for f in files]
    jobs[0].get(timeout=60)  # it runs

    dev.host.stop()

    for q in jobs:
        while hasattr(c := q.get(timeout=60), "tokens"):
            pass
        assert isinstance(c, JobFailed) and isinstance(c.error, DeviceLost), c
    dev.host.stop()
    assert dev.died is None
