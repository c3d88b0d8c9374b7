"""Wait for ever (benchmarks/programs)."""

from vllm_symphony import lip


async def main() -> None:
    lip.emit("ready")
    while True:
        await lip.sleep(3600)
