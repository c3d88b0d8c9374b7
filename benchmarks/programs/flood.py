"""Make control calls as fast as it goes, many at once, for ever (benchmarks/programs)."""

import asyncio

from vllm_symphony import lip

AT_ONCE = 64


async def main() -> None:
    lip.emit("ready")
    while True:
        await asyncio.gather(*(lip.getpid() for _ in range(AT_ONCE)))
