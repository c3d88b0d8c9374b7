"""Control calls one after the other, as fast as they are answered (benchmarks/programs)."""

import time

from vllm_symphony import lip


async def main(num_calls: int) -> list[float]:
    """Seconds of each."""
    samples = []
    for _ in range(num_calls):
        began = time.perf_counter()
        await lip.now()
        samples.append(time.perf_counter() - began)
    return samples
