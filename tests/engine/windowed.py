"""The cases of hybrid.py where vLLM was told to keep all tokens of a window in one group: files have pages, but no surgery."""

from __future__ import annotations

from typing import Any

from tests.engine import hybrid
from tests.engine.driver import Driver
from tests.tiny import tiny_args


def engine_args() -> Any:
    return tiny_args(model=str(hybrid.model()), skip_tokenizer_init=True, max_model_len=1024, disable_hybrid_kv_cache_manager=True)


def case_files_keep_pages_and_give_plain_vllms_tokens(dev: Driver) -> None:
    f = dev.create(hybrid.PROMPT)
    dev.forward(f, [])

    assert dev.host.residency(f).device_pages == 7 and "recompute" not in dev.host.model.capabilities
    dev.drop(f)
    hybrid.case_a_file_gives_plain_vllms_tokens(dev)
    hybrid.case_forks_and_truncated_files_give_plain_vllms_tokens(dev)


def case_surgery_is_refused_with_the_reason(dev: Driver) -> None:
    hybrid.case_surgery_is_refused_with_the_reason(dev)
