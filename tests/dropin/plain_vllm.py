"""vLLM as its users run it, offline on the tiny model: `python plain_vllm.py MODEL`. Says what it gave and what it is made of.

Imports nothing of ours and nothing of the tests: it is run where neither is on the path.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

CLASSES = (
    ("vllm.v1.engine.core", "EngineCore"),
    ("vllm.v1.engine.core", "EngineCoreProc"),
    ("vllm.v1.core.sched.scheduler", "Scheduler"),
    ("vllm.v1.core.block_pool", "BlockPool"),
    ("vllm.v1.request", "Request"),
    ("vllm.v1.worker.gpu_model_runner", "GPUModelRunner"),
    ("vllm.engine.arg_utils", "EngineArgs"),
    ("vllm.config", "VllmConfig"),
)


def requests() -> tuple[list[Any], list[Any]]:
    """Prompts of many lengths, some with a common beginning; greedy, sampled by seed, with penalties, log-probabilities."""
    from vllm import SamplingParams

    prompts, params = [], []
    for i in range(10):
        ids = [3 + (i * 37 + 11 * j * (1 + i % 3)) % 1000 for j in range(15 + (i % 5) * 40)]
        prompts.append({"prompt_token_ids": [3 + (11 * j) % 1000 for j in range(100)] + ids if i % 4 == 3 else ids})
        more: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": i} if i % 3 == 1 else {"temperature": 0.0}
        if i % 5 == 2:
            more |= {"presence_penalty": 0.5, "repetition_penalty": 1.1, "logit_bias": {5: 2.0}}
        params.append(SamplingParams(max_tokens=24, ignore_eos=True, logprobs=3, prompt_logprobs=2 if i == 6 else None, **more))
    return prompts, params


def exact(rows: Any) -> list[Any]:
    """Log-probabilities with all their bits."""
    return [
        None if row is None else sorted((token, float(p.logprob).hex(), p.rank) for token, p in row.items()) for row in rows or ()
    ]


def made_of(llm: Any) -> dict[str, str]:
    """The class of each part."""
    core = llm.llm_engine.engine_core.engine_core
    worker = core.model_executor.driver_worker
    worker = getattr(worker, "worker", worker)
    parts = {
        "core": core, "scheduler": core.scheduler, "waiting": core.scheduler.waiting, "worker": worker,
        "runner": worker.model_runner, "executor": core.model_executor, "pool": core.scheduler.kv_cache_manager.block_pool,
    }  # fmt: skip
    return {name: f"{type(part).__module__}.{type(part).__qualname__}" for name, part in parts.items()}


def members() -> dict[str, list[str]]:
    """What each class has, and from which module its functions are."""
    found = {}
    for module, name in CLASSES:
        cls = getattr(importlib.import_module(module), name)
        found[name] = sorted(f"{key} {getattr(value, '__module__', '')}" for key, value in vars(cls).items())
    return found


def main(model: str) -> dict[str, Any]:
    from vllm import LLM

    llm = LLM(
        model=model, dtype="float32", max_model_len=1024, kv_cache_memory_bytes=64 << 20, max_num_batched_tokens=2048,
        max_num_seqs=8, enforce_eager=True, seed=0, disable_log_stats=True,
    )  # fmt: skip
    outputs = llm.generate(*requests(), use_tqdm=False)
    return {
        "outputs": [
            {"tokens": list(o.outputs[0].token_ids), "text": o.outputs[0].text, "logprobs": exact(o.outputs[0].logprobs),
             "prompt": exact(o.prompt_logprobs)}
            for o in outputs
        ],
        "made_of": made_of(llm),
        "members": members(),
        "modules": sorted(name for name in sys.modules if name.split(".")[0] == "vllm_symphony"),
        "all_modules": sorted(name for name in sys.modules if name.split(".")[0] == "vllm"),
    }  # fmt: skip


if __name__ == "__main__":
    said = main(sys.argv[1])
    print(json.dumps(said), flush=True)
