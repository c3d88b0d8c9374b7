"""A supervisor: it starts a child, and when that fails starts it again, each time after a longer pause, and at last gives up."""

from vllm_symphony import lip


async def main(question: str = "Is the lamp lit?", fails: int = 2, tries: int = 4, pause_s: float = 0.05) -> dict[str, object]:
    """Have a question answered by a child that may fail, and is restarted with back-off.

    Args:
        question: what the child asks the model
        fails: how many times it fails before it works, for the show
        tries: how often it is started, at most
        pause_s: before the first restart; twice as long before each further one
    """
    ends: list[str] = []
    for number in range(tries):
        if number:
            await lip.sleep(pause_s * 2 ** (number - 1))
        child = await lip.spawn(worker, question, number < fails, limits=lip.Limits(wall_s=60, depth=0))
        status = await child.status()
        ends.append(status.reason)
        lip.emit({"try": number + 1, "ended": status.reason, "error": status.error})
        if status.code == 0:
            return {"answer": await child.wait(), "ends": ends}
    return {"answer": None, "ends": ends}


async def worker(question: str, fails: bool) -> str:
    """Whatever may go wrong: its memory, its files and its calls are its own, and gone when it ends."""
    async with lip.open(tokens=lip.render_chat(question)) as chat:
        if fails:
            raise RuntimeError("the wick is wet")
        return (await chat.generate(16)).text.strip()
