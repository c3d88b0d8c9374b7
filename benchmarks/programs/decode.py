"""Decode after a prompt in one of several ways, beginning together with all that wait at the same gate (benchmarks/programs)."""

import asyncio
import time

from vllm_symphony import lip

HEAD_START_S = 0.1  # from the making of the gate's file to the beginning: all programs have seen it by then


async def main(
    prompt: list[int],
    num_tokens: int,
    how: str,
    gate: str,
    linger_s: float = 0.0,
    top_k: int = 20,
    warm_up: int = 0,
    late_s: float = 0.0,
) -> None:
    """Emit `ready`, then (token by token) `warm` after so many tokens, then what it took.

    Token by token it takes `late_s` for itself before each. Lingers so that the end of one program is not part of another one's
    measurement.
    """
    async with lip.open(tokens=prompt) as file:
        await pass_gate(gate)
        began, cpu_s = time.monotonic(), time.process_time()
        await decode(file, num_tokens, how, top_k, warm_up, late_s)
        lip.emit({"began": began, "ended": time.monotonic(), "cpu_s": time.process_time() - cpu_s})
        await lip.sleep(linger_s)


async def decode(file: lip.File, num_tokens: int, how: str, top_k: int, warm_up: int, late_s: float) -> None:
    if how == "token":
        token: list[int] = []
        for i in range(num_tokens):
            if i and i == warm_up:
                lip.emit("warm")
            if late_s:
                await asyncio.sleep(late_s)
            dist = await file.forward(token, top_k=top_k)
            token = [dist.top1]
        return
    never = {"fused": None, "until": lip.top1 > 2.0, "until_entropy": lip.entropy > 100.0}[how]
    done = await file.generate(num_tokens, ignore_eos=True, text=False, until=never)
    assert len(done.tokens) == num_tokens, done


async def pass_gate(gate: str) -> None:
    lip.emit("ready")
    while True:
        try:
            made_s = (await lip.stat(gate)).created_ns / 1e9
            break
        except lip.NoSuchFile:
            await lip.sleep(0.02)
    await lip.sleep(max(0.0, made_s + HEAD_START_S - await lip.now()))
