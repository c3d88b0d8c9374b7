"""Decode token by token for ever (benchmarks/programs)."""

from vllm_symphony import lip


async def main(prompt: list[int], num_tokens: int = 512) -> None:
    """Say `ready` after the first token; run until killed."""
    is_first = True
    async with lip.open(tokens=prompt) as file:
        while True:
            token: list[int] = []
            for _ in range(num_tokens):
                token = [(await file.forward(token)).top1]
                if is_first:
                    lip.emit("ready")
                    is_first = False
            await file.truncate(len(prompt))
