"""Workers whose model runner carries out our step plans (engine/worker.py).

vLLM makes the runner inside `init_device`; right after it, the instance's class becomes a subclass of its own class with our mixin
in front, which works for every V1 runner class. Named to vLLM by `worker_cls` as a string, so that worker processes import it too.
Source: vllm/v1/worker/cpu_worker.py, gpu_worker.py (0.32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

from vllm_symphony.engine.fingerprint import fingerprint
from vllm_symphony.engine.layout import Layout, probe
from vllm_symphony.engine.move import Moved, Orders
from vllm_symphony.engine.page_io import CachePages, make_mover
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

    # ---- pages: what they look like, and moving tokens between them

    def _layout(self) -> Layout:
        """Found out at the first question; the caches exist then."""
        found: Layout | None = getattr(self, "symphony_found_layout", None)
        if found is None:
            num_slots = self.model_runner.kv_cache_config.num_blocks * self.cache_config.block_size
            found = self.symphony_found_layout = probe(self.vllm_config, self.model_runner.get_model(), num_slots)
        return found

    def symphony_layout(self) -> tuple[str, str]:
        """Why slots cannot be copied, and why keys cannot be turned; "" where they can."""
        layout = self._layout()
        return layout.refusal, layout.no_rotation

    def symphony_fingerprint(self) -> str:
        """What the content of a page depends on, on this worker."""
        return fingerprint(self.vllm_config, self.model_runner.get_model(), self._layout().digest)

    def _pages(self) -> CachePages:
        found: CachePages | None = getattr(self, "symphony_pages", None)
        if found is None:
            runner = self.model_runner
            found = self.symphony_pages = CachePages(runner.kv_caches, runner.kv_cache_config.num_blocks)
        return found

    def symphony_page_bytes(self) -> int:
        return self._pages().page_bytes

    def symphony_tiers(self, num_slots: int, directory: str | None, fingerprint: str) -> None:
        """Begin to move pages: so many fit into host memory here; segments lie in `directory`."""
        self.symphony_mover = make_mover(self._pages(), num_slots, directory, fingerprint)

    def symphony_rename_pages(self, fingerprint: str) -> None:
        """Pages are of another model from now on."""
        if hasattr(self, "symphony_mover"):
            self.symphony_mover.rename(fingerprint)

    def symphony_move(self, orders: Orders) -> None:
        self.symphony_mover.begin(orders, self._pages().mark())

    def symphony_moved(self) -> Sequence[Moved]:
        return self.symphony_mover.ended()

    def symphony_cancel_move(self, move: int) -> None:
        self.symphony_mover.cancel(move)

    def symphony_copy_slots(self, src: Any, dst: Any, delta: Any) -> None:
        self._layout().copy_slots(src, dst, delta)
