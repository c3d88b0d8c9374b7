"""Run by test_embedded.py in a process of its own: vLLM's AsyncLLM with the kernel inside its engine process.

python -m tests.engine.embedded_main SOCKET      prints one JSON line
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import fields

NUM_TOKENS = 24
PAGE = 32  # tokens, of which the cache has 32
PROMPTS = [list(range(40, 75)), list(range(60, 100)), list(range(90, 50, -1))]
PROGRAM_PROMPT = list(range(45, 110))


def decode(path: str, prompt: list[int]) -> dict[str, object]:
    """A program's forwards through the engine process's own socket, token by token; then the same by generate."""
    from tests.unit.engine.reactor_rig import Client
    from vllm_symphony.abi.calls import FdArgs, Forward, Generate, NoArgs, Open
    from vllm_symphony.abi.types import pack_tokens, unpack_floats, unpack_tokens

    client = Client(path)
    try:
        fd = client.ask("open", Open(tokens=pack_tokens([]))).fd
        tokens, logprobs, new = [], [], prompt
        for _ in range(NUM_TOKENS):
            (d,) = client.ask("forward", Forward(fd, pack_tokens(new), top_k=5)).distributions
            tokens.append(unpack_tokens(d.ids)[0])
            logprobs.append(unpack_floats(d.logprobs))
            new = tokens[-1:]
        fork = client.ask("open", Open(tokens=pack_tokens(prompt))).fd
        fused = client.ask("generate", Generate(fork, NUM_TOKENS, ignore_eos=True, logprobs=True))
        for open_fd in (fd, fork):
            client.ask("close", FdArgs(open_fd))
        info = json.loads(client.ask("info", NoArgs()).json)
    finally:
        client.close()
    return {"tokens": tokens, "logprobs": logprobs, "fused": unpack_tokens(fused.tokens), "text": fused.text, "info": info}


def wait_for_a_stale_file(path: str) -> int:
    """A younger file finds no room until the older one, which was just used, is stale: nothing arrives meanwhile. What it got."""
    from tests.unit.engine.reactor_rig import Client
    from vllm_symphony.abi.calls import Forward, Open
    from vllm_symphony.abi.types import pack_tokens

    client = Client(path)
    try:
        older = client.ask("open", Open(tokens=pack_tokens([40 + i % 60 for i in range(20 * PAGE)]))).fd
        younger = client.ask("open", Open(tokens=pack_tokens([41 + i % 60 for i in range(15 * PAGE)]))).fd
        client.ask("forward", Forward(older, top_k=1))
        return len(client.ask("forward", Forward(younger, top_k=1)).distributions)
    finally:
        client.close()


async def main(path: str) -> dict[str, object]:
    from tests.tiny import tiny_args
    from vllm_symphony.engine.embedded import LAUNCH_FLAGS

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    args = tiny_args(num_gpu_blocks_override=33, max_model_len=1024, **LAUNCH_FLAGS)

    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.inputs import TokensPrompt
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**{f.name: getattr(args, f.name) for f in fields(args)}))
    try:

        async def plain(name: str, prompt: list[int]) -> list[int]:
            params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True, detokenize=False)
            async for out in engine.generate(TokensPrompt(prompt_token_ids=prompt), params, request_id=name):
                last = out
            return list(last.outputs[0].token_ids)

        before = [await plain(f"before-{i}", p) for i, p in enumerate(PROMPTS)]
        attached = await engine.engine_core.call_utility_async("symphony_attach", path)
        program = asyncio.to_thread(decode, path, PROGRAM_PROMPT)
        result, *beside = await asyncio.gather(program, *[plain(f"beside-{i}", p) for i, p in enumerate(PROMPTS)])
        reference = await plain("reference", PROGRAM_PROMPT)
        num_distributions = await asyncio.to_thread(wait_for_a_stale_file, path)
        return {
            "attached": attached,
            "pid": os.getpid(),
            "before": before,
            "beside": beside,
            "reference": reference,
            "program": result,
            "after_waiting": num_distributions,
        }
    finally:
        engine.shutdown()


if __name__ == "__main__":
    os.environ["VLLM_PLUGINS"] = "symphony"
    print(json.dumps(asyncio.run(main(sys.argv[1]))), flush=True)
