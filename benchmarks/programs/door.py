"""Time a control call and a one-token forward, over and over (benchmarks/programs). Also run outside, through each door."""

import asyncio
import time

from vllm_symphony import lip


async def main(prompt: list[int], num_rounds: int, pause_s: float = 0.0) -> dict[str, list[float]]:
    """Seconds of each call by name. `pause_s`: between the two, as long as a slower door would keep the engine waiting."""
    control: list[float] = []
    forward: list[float] = []
    async with lip.open(tokens=prompt) as file:
        token = (await file.forward()).top1
        for _ in range(num_rounds):
            began = time.perf_counter()
            await lip.getpid()
            control.append(time.perf_counter() - began)
            if pause_s:
                await asyncio.sleep(pause_s)
            asked = time.perf_counter()
            token = (await file.forward(token)).top1
            forward.append(time.perf_counter() - asked)
    return {"getpid": control, "forward": forward}
