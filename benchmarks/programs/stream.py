"""Generate for ever, streaming, as a chat would be read (benchmarks/programs)."""

from vllm_symphony import lip


async def main(prompt: list[int], num_tokens: int = 1000) -> None:
    """Say `ready` after the first piece; run until killed."""
    is_first = True
    async with lip.open(tokens=prompt) as file:
        while True:
            async for _ in file.generate(num_tokens, ignore_eos=True):
                if is_first:
                    lip.emit("ready")
                    is_first = False
            await file.truncate(len(prompt))
