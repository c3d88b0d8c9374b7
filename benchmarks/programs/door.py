"""Time a control call and a one-token forward, over and over (benchmarks/programs). Also run outside, through each door."""

import time

from vllm_symphony import lip


async def main(prompt: list[int], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each call by name."""
    control: list[float] = []
    forward: list[float] = []
    async with lip.open(tokens=prompt) as file:
        token = (await file.forward()).top1
        for _ in range(num_rounds):
            began = time.perf_counter()
            await lip.getpid()
            asked = time.perf_counter()
            token = (await file.forward(token)).top1
            forward.append(time.perf_counter() - asked)
            control.append(asked - began)
    return {"getpid": control, "forward": forward}
