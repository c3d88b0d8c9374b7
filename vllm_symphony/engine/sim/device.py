"""The simulator as a `Device` (engine/sim/device.py): the core on a thread, in real time.

    submit --> core.mail      thread:  begin -> sleep (seconds of the step x `speed`) -> finish -> completions

For `symphony serve --device sim` and for tests of servers. `speed` 0 is as fast as possible, 1 the cost function's own time;
`freeze` holds the step in progress, so that a test finds a call in the state that it wants. A driver that leaps uses `core` alone
and never starts the thread (testing/machine.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from vllm_symphony.abi.types import Ino, JobId, MetricSample, ModelInfo
from vllm_symphony.engine.sim.core import Cost, SimCore
from vllm_symphony.engine.sim.model import Model, decode
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.kernel.effect import Capacity, Completion, DeviceEffect, Residency, TextJob
from vllm_symphony.kernel.sched.view import QueueView, seen


class SimDevice:
    """A `Device` (kernel/effect.py)."""

    model: ModelInfo

    def __init__(
        self,
        *,
        num_pages: int = 1024,
        page_size: int = 16,
        max_positions: int = 4096,
        model: Model | None = None,
        cost: Cost = Cost(),  # noqa: B008  frozen
        tiers: TierLimits = TierLimits(),  # noqa: B008  frozen
        seed: int = 0,
        speed: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.core = SimCore(
            num_pages=num_pages,
            page_size=page_size,
            max_positions=max_positions,
            clock=clock,
            model=model,
            seed=seed,
            cost=cost,
            tiers=tiers,
        )
        self.model = self.core.info
        self.speed = speed
        self._changed = threading.Condition()
        self._frozen = False
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._on_completions: Callable[[Sequence[Completion]], None] = lambda _: None
        self._on_death: Callable[[BaseException], None] = lambda _: None

    # ---- Device

    def start(self, on_completions: Callable[[Sequence[Completion]], None], on_death: Callable[[BaseException], None]) -> None:
        self._on_completions, self._on_death = on_completions, on_death
        self._thread = threading.Thread(target=self._run, name="symphony-sim", daemon=True)
        self._thread.start()

    def submit(self, effects: Sequence[DeviceEffect | TextJob]) -> None:
        with self._changed:
            self.core.submit(effects)
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def job_state(self, job: JobId) -> tuple[str, str]:
        return self.core.job_state(job)

    def decode(self, tokens: list[int]) -> str:
        return decode(tokens)

    def residency(self, ino: Ino) -> Residency:
        return self.core.residency(ino)

    def capacity(self) -> Capacity:
        return self.core.capacity()

    def queue_view(self) -> QueueView:
        return seen(self.core.former.queue)

    def counters(self) -> dict[str, float]:
        return self.core.counters()

    def samples(self) -> Iterator[MetricSample]:
        return self.core.samples()

    # ---- for tests

    def locked(self) -> AbstractContextManager[SimCore]:
        """The core, while the thread is between two steps or in the middle of one, and waits."""

        @contextmanager
        def hold() -> Iterator[SimCore]:
            with self._changed:
                yield self.core

        return hold()

    def freeze(self) -> None:
        """The next step, or the one in progress, does not end until `thaw`."""
        with self._changed:
            self._frozen = True

    def thaw(self) -> None:
        with self._changed:
            self._frozen = False
            self._changed.notify()

    def die(self, error: BaseException) -> None:
        """End as an engine does that met `error`."""
        with self._changed:
            self._failure = error
            self._changed.notify()

    # ---- the thread

    def _run(self) -> None:
        core = self.core
        with self._changed:
            while not (self._stopping or self._failure):
                seconds = core.begin() if core.has_work else None
                self._flush()
                if seconds is None:
                    self._changed.wait_for(self._is_called, None if core.wake_at is None else max(0.0, core.wake_at - core.clock()))
                    continue
                self._let_pass(seconds * self.speed)
                if not (self._stopping or self._failure):
                    core.finish()
                    self._flush()
            core.lose("the server is stopping" if self._failure is None else f"the engine died: {self._failure}")
            self._flush()
        if self._failure is not None:
            self._on_death(self._failure)

    def _is_called(self) -> bool:
        return bool(self.core.mail or self.core.out or self._stopping or self._failure)

    def _let_pass(self, seconds: float) -> None:
        """The step's time; text calls that come meanwhile are answered."""
        end = time.monotonic() + seconds
        while not (self._stopping or self._failure):
            self._flush()
            left = None if self._frozen else end - time.monotonic()
            if left is not None and left <= 0:
                return
            self._changed.wait(left)

    def _flush(self) -> None:
        """Hand over what is done. The receiver only queues it, so the lock may be held."""
        out = self.core.take()
        if out:
            self._on_completions(out)
