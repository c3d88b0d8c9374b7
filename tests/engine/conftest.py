"""One real engine per test session: the tiny trained model in float32 (tests/engine/conftest.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.driver import Driver

TINY = Path(__file__).parents[1] / "models" / "tiny"


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


@pytest.fixture(scope="session")
def engine() -> Iterator[Driver]:
    from vllm_symphony.engine.own import OwnHost

    host = OwnHost(tiny_args())
    driver = Driver(host)
    yield driver
    host.stop()


@pytest.fixture
def dev(engine: Driver) -> Iterator[Driver]:
    """The session's engine; after the test it holds nothing."""
    yield engine
    assert engine.died is None, engine.died
    engine.assert_nothing_left()
