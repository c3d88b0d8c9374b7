"""Decode token by token once the gate's file is there, and emit when each token came (benchmarks/programs)."""

import time

from vllm_symphony import lip


async def main(prompt: list[int], num_tokens: int, gate: str) -> None:
    """Emit `ready`, then the times of all tokens, by `time.monotonic`."""
    async with lip.open(tokens=prompt) as file:
        lip.emit("ready")
        while not await is_open(gate):
            await lip.sleep(0.02)
        times, token = list[float](), list[int]()
        for _ in range(num_tokens):
            dist = await file.forward(token, top_k=20)
            times.append(time.monotonic())
            token = [dist.top1]
        lip.emit(times)


async def is_open(gate: str) -> bool:
    try:
        await lip.stat(gate)
    except lip.NoSuchFile:
        return False
    return True
