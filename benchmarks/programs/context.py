"""Time one-token forwards on forks of a long named file (benchmarks/programs)."""

import time

from vllm_symphony import lip


async def main(path: str, prompt: list[int], num_forwards: int) -> list[float]:
    """Seconds of each forward. Makes the file when it is not there yet."""
    try:
        book = await lip.open(path)
    except lip.NoSuchFile:
        async with lip.open(path, tokens=prompt) as new:
            await new.forward()
        book = await lip.open(path)
    seconds = []
    async with book, book.fork() as file:
        dist = await file.forward()  # from the shared prefix: not a step of the loop
        for _ in range(num_forwards):
            began = time.perf_counter()
            dist = await file.forward(dist.top1)
            seconds.append(time.perf_counter() - began)
    return seconds
