"""Plain requests through vLLM's own scheduler, or ours with no file in use: run by test_compat.py in processes of their own.

Gives the number of steps and every token and log-probability, the floats in full.
"""

from __future__ import annotations

from typing import Any

from tests.engine.conftest import tiny_args

SMALL = {"num_gpu_blocks_override": 33, "max_model_len": 1024, "max_num_batched_tokens": 128, "max_num_seqs": 16}


def core_of(which: str, small: bool) -> Any:
    args = tiny_args(**(SMALL if small else {}))
    if which == "ours":
        from vllm_symphony.engine.own import OwnHost

        return OwnHost(args).core  # attached; its thread is not started, we step it here
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.abstract import Executor

    config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    return EngineCore(config, Executor.get_class(config), log_stats=False)


def requests(core: Any) -> list[Any]:
    from vllm import SamplingParams
    from vllm.v1.request import Request

    out = []
    for i in range(20):
        prompt = [3 + (i * 37 + 11 * j * (1 + i % 3)) % 1000 for j in range(20 + (i % 5) * 40)]
        if i % 4 == 3:
            prompt = [3 + (11 * j) % 1000 for j in range(150)] + prompt[:20]  # shares a prefix with others
        params: dict[str, Any] = {"max_tokens": 60, "temperature": 0.0, "ignore_eos": True, "logprobs": 3 if i % 2 else None}
        if i % 3 == 1:
            # no seed of its own: on the CPU vLLM cannot wind such a generator back inside a prefill of several chunks
            params |= {"temperature": 0.8, "top_p": 0.9, "top_k": 50, "min_p": 0.01}
        if i % 5 == 2:
            params |= {"presence_penalty": 0.5, "frequency_penalty": 0.2, "repetition_penalty": 1.1, "logit_bias": {5: 2.0}}
        if i == 8:
            params |= {"prompt_logprobs": 2}
        sampling = SamplingParams(**params)
        out.append(Request(f"r{i}", prompt, sampling, None, arrival_time=float(i), block_hasher=core.request_block_hasher))
    return out


def run(core: Any) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    waiting = requests(core)
    found: dict[str, Any] = {r.request_id: {"tokens": [], "logprobs": [], "prompt": [], "end": None} for r in waiting}
    steps = 0
    for r in waiting[:12]:
        core.add_request(r)
    while any(f["end"] is None for f in found.values()):
        if steps == 15:
            for r in waiting[12:]:
                core.add_request(r)
        if steps == 30:
            core.abort_requests(["r13"])
            found["r13"]["end"] = "aborted"
        outputs, _ = core.step_fn()
        steps += 1
        for eco in outputs.values():
            for o in eco.outputs:
                f = found[o.request_id]
                f["tokens"] += o.new_token_ids
                if o.new_logprobs is not None:
                    f["logprobs"] += [[float(x).hex() for x in row] for row in o.new_logprobs.logprobs]
                if o.new_prompt_logprobs_tensors is not None:
                    f["prompt"] = [[float(x).hex() for x in row] for row in o.new_prompt_logprobs_tensors.logprobs.tolist()]
                if o.finish_reason is not None:
                    f["end"] = str(o.finish_reason)
    pool = core.scheduler.kv_cache_manager.block_pool
    return {"steps": steps, "free": pool.get_num_free_blocks(), "found": found}


def found(which: str, small: bool) -> dict[str, Any]:
    """What `ours` or `stock` gives."""
    core = core_of(which, small)
    result = run(core)
    core.shutdown()
    return result
