"""Workers whose model runner carries out our step plans (engine/worker.py).

vLLM makes the runner inside `init_device`; right after it, the instance's class becomes a subclass of its own class with our mixin
in front, which works for every V1 runner class. Named to vLLM by `worker_cls` as a string, so that worker processes import it too.
Source: vllm/v1/worker/cpu_worker.py, gpu_worker.py (0.32).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

from vllm_symphony.engine.runner import SymphonyRunnerMixin

if TYPE_CHECKING or not current_platform.is_cpu():
    from vllm.v1.worker.gpu_worker import Worker
else:
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker


class SymphonyWorker(Worker):
    """vLLM's worker of this platform, with our runner mixin and the few calls that the engine thread makes between steps."""

    def init_device(self) -> None:
        super().init_device()
        cls = type(self.model_runner)
        self.model_runner.__class__ = type(f"Symphony{cls.__name__}", (SymphonyRunnerMixin, cls), {})

    def symphony_sample(self, *args: Any) -> Any:
        return self.model_runner.symphony_sample(*args)

    def symphony_row(self, row_id: int) -> Any:
        return self.model_runner.symphony_row(row_id)

    def symphony_drop_rows(self, row_ids: list[int]) -> None:
        self.model_runner.symphony_drop_rows(row_ids)

    def symphony_num_rows(self) -> int:
        return int(self.model_runner.symphony_num_rows())
