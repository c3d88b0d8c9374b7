"""The real engine of the tests: the tiny trained model in float32, made once per session and shared (tests/tiny.py).

OwnHost (one per session) <-- Guest: what the engine's tests drive by effects
                          <-- Guest: what a reactor serves in the conformance tests, which may stop it without ending the engine
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vllm_symphony.kernel.effect import StepRan

TINY = Path(__file__).parent / "models" / "tiny"


def engine_env() -> None:
    """One thread, no JIT, no network: what makes a small engine start in seconds and repeat itself."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def tiny_args(**more: Any) -> Any:
    engine_env()
    from vllm_symphony.engine.own import prepare_environment

    prepare_environment()
    from vllm.engine.arg_utils import EngineArgs

    args = {
        "model": str(TINY), "dtype": "float32", "max_model_len": 2048, "block_size": 32, "num_gpu_blocks_override": 513,
        "kv_cache_memory_bytes": 1 << 28, "max_num_seqs": 64, "max_num_batched_tokens": 512, "enforce_eager": True, "seed": 0,
    }  # fmt: skip
    return EngineArgs(**{**args, **more})


class SharedHost:
    """Owns a running OwnHost. Its guests take turns: completions go to the one that submitted last."""

    def __init__(self) -> None:
        from vllm_symphony.engine.own import OwnHost

        self.host = OwnHost(tiny_args())
        self.guest: Guest | None = None
        self.died: BaseException | None = None
        self.host.start(self._deliver, self._death)
        self.host.text._pool.submit(int).result()  # its thread is made at the first job, which would look like a test's leak

    def stop(self) -> None:
        self.host.stop()

    def _deliver(self, batch: Sequence[Any]) -> None:
        if self.guest is None:  # plain requests ran before anybody came: steps, and nothing else
            assert all(isinstance(c, StepRan) for c in batch), batch
            return
        self.guest.on_completions(batch)

    def _death(self, error: BaseException) -> None:
        self.died = error
        if self.guest is not None:
            self.guest.on_death(error)


class Guest:
    """A `Device` over the shared host; what else is asked of it is the host's own."""

    def __init__(self, shared: SharedHost) -> None:
        self.shared = shared
        self.on_completions: Callable[[Sequence[Any]], None] = lambda _: None
        self.on_death: Callable[[BaseException], None] = lambda _: None

    def start(self, on_completions: Callable[[Sequence[Any]], None], on_death: Callable[[BaseException], None]) -> None:
        self.on_completions, self.on_death = on_completions, on_death

    def submit(self, effects: Sequence[Any]) -> None:
        self.shared.guest = self
        self.shared.host.submit(effects)

    def stop(self) -> None:
        """The engine goes on."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.shared.host, name)
