"""What both hosts answer the kernel about the engine under them (engine/fitted.py). Imports nothing of vLLM until it is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import Ino, JobId, MetricSample, ModelInfo
from vllm_symphony.engine.meter import engine_samples
from vllm_symphony.kernel.effect import Capacity, Residency
from vllm_symphony.kernel.sched.view import QueueView, seen

if TYPE_CHECKING:
    from vllm_symphony.engine.device import FileDevice
    from vllm_symphony.engine.text import TextService


class FittedHost:
    """The part of a `Device` (kernel/effect.py) that does not depend on whose loop the engine runs in. `core` is its host's."""

    core: Any
    device: FileDevice
    text: TextService
    model: ModelInfo
    tokenizer: Any  # None for a model without one

    def fit(self, config: Any, **how: Any) -> None:
        """Attach a device and a text service to the core; `how` as in engine/fitting.py."""
        from vllm_symphony.engine.fitting import fit

        fitting = fit(self.core, config, **how)
        self.device, self.text, self.model, self.tokenizer = fitting.device, fitting.text, fitting.model, fitting.tokenizer

    def job_state(self, job: JobId) -> tuple[str, str]:
        return self.device.job_state(job)

    def decode(self, tokens: list[int]) -> str:
        return self.text.decode(tokens)

    def residency(self, ino: Ino) -> Residency:
        return self.device.residency(ino)

    def capacity(self) -> Capacity:
        return self.device.capacity()

    def queue_view(self) -> QueueView:
        return seen(self.device.order.queue)

    def samples(self) -> Iterator[MetricSample]:
        device = self.device
        files = device.table.files.values()
        return engine_samples(device.meter, self.counters(), device.capacity(), files, self.model.page_bytes)

    def counters(self) -> dict[str, float]:
        return {**self.device.counters(), **self.device.scheduler.symphony_counters()}
