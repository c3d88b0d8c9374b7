"""One program of a trace (benchmarks/programs): calls and gaps as the trace says, each call's texts its own."""

import random
from typing import Any

from vllm_symphony import lip

HEAD_START_S = 0.5  # from the making of the gate's file to the trace's beginning


async def main(gate: str, at: float, steps: list[list[Any]], vocab_size: int) -> None:
    """It arrives `at` seconds after the trace's beginning. Emit `ready`, then the seconds from its arrival to its end."""
    begins = await opened(gate) + HEAD_START_S
    await lip.sleep(max(0.0, begins + at - await lip.now()))
    file: lip.File | None = None
    for step in steps:
        if isinstance(step[0], str):
            await lip.sleep(step[1])
            continue
        prompt, decode, *forks = step
        text = [random.randrange(3, vocab_size) for _ in range(prompt)]
        if file is None:
            file = await lip.open(tokens=text)
            await turn(file, [], decode)
        elif forks:
            branches = [await file.fork() for _ in range(forks[0])]
            async with lip.group() as group:
                for branch in branches:
                    group.start(turn, branch, text, decode)
            for branch in branches:
                await branch.close()
        else:
            await turn(file, text, decode)
    lip.emit(await lip.now() - begins - at)


async def opened(gate: str) -> float:
    """When the gate's file was made, once it is."""
    lip.emit("ready")
    while True:
        try:
            return (await lip.stat(gate)).created_ns / 1e9
        except lip.NoSuchFile:
            await lip.sleep(0.1)


async def turn(file: lip.File, text: list[int], decode: int) -> None:
    if text:
        await file.append(text)
    await file.generate(decode, ignore_eos=True, text=False)
