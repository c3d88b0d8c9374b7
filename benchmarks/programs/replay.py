"""One program of a trace (benchmarks/programs): calls and gaps as the trace says, each call's texts its own."""

import random
import time
from typing import Any

from vllm_symphony import lip


class Replay:
    """`first_s`: of each call, seconds until its first token, where anybody asks."""

    def __init__(self, vocab_size: int, is_timed: bool) -> None:
        self.vocab_size, self.is_timed = vocab_size, is_timed
        self.first_s: list[float] = []

    def text(self, num_tokens: int) -> list[int]:
        return [random.randrange(3, self.vocab_size) for _ in range(num_tokens)]

    async def turn(self, file: lip.File, text: list[int], decode: int) -> None:
        began = time.monotonic()
        if text:
            await file.append(text)
        if not self.is_timed:
            await file.generate(decode, ignore_eos=True, text=False)
            return
        num_pieces = 0
        async for _ in file.generate(decode, ignore_eos=True, text=False):
            if not num_pieces:
                self.first_s.append(time.monotonic() - began)
            num_pieces += 1

    async def branch(self, file: lip.File, text: list[int], decode: int) -> None:
        await self.turn(file, text, decode)
        await file.close()


async def main(steps: list[list[Any]], vocab_size: int, prefix: str | None = None, is_timed: bool = False) -> list[float]:
    """`prefix`: the path of a shared file that the context begins with."""
    replay = Replay(vocab_size, is_timed)
    file: lip.File | None = None
    if prefix is not None:
        file = await (await lip.open(prefix)).fork()
    for step in steps:
        if isinstance(step[0], str):
            await lip.call_tool(step[0], seconds=step[1])
            continue
        prompt, decode, *forks = step
        if file is None:
            file = await lip.open(tokens=replay.text(prompt))
            await replay.turn(file, [], decode)
        elif forks:
            async with lip.group() as group:
                for _ in range(forks[0]):
                    group.start(replay.branch, await file.fork(), replay.text(prompt), decode)
        else:
            await replay.turn(file, replay.text(prompt), decode)
    return replay.first_s
