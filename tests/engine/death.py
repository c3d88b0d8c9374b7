"""The case of an engine that dies in a step: run by test_death.py in a process of its own, which ends with it."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from tests.engine.conftest import tiny_args
from tests.engine.driver import Driver
from tests.engine.reference import prompts
from vllm_symphony.abi.calls import Tokenize
from vllm_symphony.abi.types import Grammar, Sampler
from vllm_symphony.errors import DeviceLost
from vllm_symphony.kernel.effect import GenerateTokens, JobFailed, Owner, RowJob, SampleJob, TextJob

dies = True


def engine_args() -> Any:
    return tiny_args()


def case_every_job_gets_enodev_once_and_the_host_says_that_it_died(dev: Driver) -> None:
    threading.excepthook = lambda _: None
    texts = prompts(dev, 8)
    files = [dev.create(t) for t in texts]
    for f in files:
        dev.forward(f, [])
    executor, left = dev.host.core.model_executor, [2]
    execute = executor.execute_model

    def fail(*args: Any, **kw: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("the device fell off the bus")
        return execute(*args, **kw)

    def begin() -> None:
        executor.execute_model = fail

    dev.call(begin)
    jobs = [dev.start_generate(f, 200) for f in files[:4]]
    jobs.append(dev.start_generate(files[4], 200, grammar=Grammar("regex", "[a-z]+", dev.lengths[files[4]])))
    jobs.append(dev.start_forward(files[5], [3 + i % 1000 for i in range(1500)], outputs="all"))
    for effect in (RowJob, SampleJob):  # rows that must be computed again: jobs of ours stand behind them
        job, q = dev.job()
        more = () if effect is RowJob else (Sampler(), 0, None, 1, 0)
        dev.submit(effect(job, files[6], 3, *more, Owner()))
        jobs.append((job, q))

    for job, q in jobs:
        while isinstance(c := q.get(timeout=60), GenerateTokens):
            pass
        if not isinstance(c, JobFailed):  # a row may have been there before the end
            assert job in (jobs[-1][0], jobs[-2][0])
            continue
        assert isinstance(c.error, DeviceLost) and "fell off the bus" in str(c.error), c
        assert q.empty(), "a second completion"
    dev.host._thread.join(60)
    assert isinstance(dev.died, RuntimeError)

    with pytest.raises(DeviceLost):
        dev.forward(files[0], [5])
    with pytest.raises(DeviceLost):
        dev.generate(files[0], 5)
    with pytest.raises(DeviceLost):
        dev.row(files[0], 0)
    with pytest.raises(DeviceLost):
        dev.call(lambda: None)
    job, q = dev.job()
    dev.submit(TextJob(job, "tokenize", Tokenize("a")))
    with contextlib.suppress(AttributeError):
        assert isinstance(q.get(timeout=60).error, DeviceLost)  # or it is answered: text needs no device
    dev.cancel(job)
    dev.drop(*files)
    dev.host.stop()
    dev.host.stop()
