"""What the operator did not say of the engine (engine/defaults.py): the embedded model, and modest settings on a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

DEFAULT_KV_CACHE_BYTES = 2 << 30
DEFAULT_PAGE_SIZE = 32
DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"


def prepare_cpu() -> bool:
    """Without a GPU: thread count and JIT settings that vLLM reads at import. True when the CPU will compute."""
    if any(os.path.exists(p) for p in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return False
    # one core for the edge and the programs: OpenMP threads that spin on a core which others use make steps 10 times slower
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores - 1)))
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")  # a compiled op saves nothing measurable here and costs seconds at start
    return True


def cpu_defaults(engine_args: Any) -> None:
    """On a CPU vLLM would take most of the machine's memory for KV; a fixed, modest share unless the operator said otherwise."""
    unset = engine_args.kv_cache_memory_bytes is None and engine_args.num_gpu_blocks_override is None
    if unset and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        engine_args.kv_cache_memory_bytes = min(DEFAULT_KV_CACHE_BYTES, free // 4)
    if engine_args.block_size is None:
        engine_args.block_size = DEFAULT_PAGE_SIZE


def settle_model(given: Any, words: Sequence[str], phase: Callable[[str], None]) -> None:
    """`given.model` is what the words name, else the embedded model, which may have to be made first.

    Raises: what ensure_default_model raises.
    """
    named = given.model_tag or (given.model if any(w == "--model" or w.startswith("--model=") for w in words) else None)
    if named is None:
        from vllm_symphony.model import ensure_default_model

        named = str(ensure_default_model(progress=phase))
        given.served_model_name = given.served_model_name or [DEFAULT_MODEL_NAME]
    given.model = named
