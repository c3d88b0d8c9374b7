"""Time every call, one at a time and at moments that no step sets (benchmarks/programs). Also run outside, over a socket."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from vllm_symphony import lip

PAUSE_S = 0.004  # up to that long before each call, so that calls fall anywhere into a step
MODEL_EVERY = 5  # calls that wait for the device are made in every fifth round only


async def main(num_rounds: int, prompt: list[int], name: str) -> dict[str, list[float]]:
    """Seconds of each call by name."""
    samples: dict[str, list[float]] = {}

    async def timed(what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(random.random() * PAUSE_S)
        began = time.perf_counter()
        result = await call()
        samples.setdefault(what, []).append(time.perf_counter() - began)
        return result

    async with lip.open(tokens=prompt) as file:
        await file.forward()
        for i in range(num_rounds):
            await control(timed, file, prompt, f"{name}-{i}")
            if i % MODEL_EVERY == 0:
                await text(timed)
                await model(timed, file, prompt)
    return samples


async def control(timed: Any, file: lip.File, prompt: list[int], path: str) -> None:
    await timed("getpid", lip.getpid)
    await timed("now", lip.now)
    other = await timed("open", opened(lip.open(tokens=prompt)))
    await timed("append", lambda: other.append([1, 2, 3]))
    await timed("truncate", lambda: other.truncate(len(prompt)))
    await timed("link", lambda: other.link(path))
    await timed("list", lambda: lip.ls("/"))
    await timed("unlink", lambda: lip.unlink(path))
    await timed("close", other.close)
    fork = await timed("fork", opened(file.fork()))
    await fork.close()
    await timed("stat", file.stat)
    await timed("read", lambda: file.read(0, 16))
    await timed("ps", lip.ps)
    await timed("model_info", lip.model_info)


async def text(timed: Any) -> None:
    tokens = await timed("tokenize", lambda: lip.tokenize("The lamp is lit at dusk, and put out at dawn."))
    await timed("detokenize", lambda: lip.detokenize(tokens))
    await timed("render_chat", lambda: lip.render_chat("Who lights the lamp?"))


async def model(timed: Any, file: lip.File, prompt: list[int]) -> None:
    await timed("sample", lambda: file.sample(temperature=0.7, top_p=0.9, seed=1))
    await timed("logits", file.logits)
    await timed("forward", lambda: file.forward(prompt[0]))
    await timed("generate", lambda: file.generate(1, ignore_eos=True))
    await file.truncate(len(prompt))


def opened(opening: Any) -> Callable[[], Awaitable[Any]]:
    """`timed` wants something to call."""

    async def call() -> Any:
        return await opening

    return call
