"""An agent whose memory outlives the server: a file in a directory that is kept with its pages, and goes on where it stood."""

from vllm_symphony import lip

PERSONA = "You keep a lighthouse and remember all that you are told.\n"


async def main(
    say: str = "The boat comes on Monday.", name: str = "keeper", max_tokens: int = 24, forget: bool = False
) -> dict[str, object]:
    """Tell the agent something. What it was told before, also before the server was started, it knows.

    Args:
        say: what to tell it
        name: which agent
        max_tokens: length of its answer, at most
        forget: take its memory away afterwards
    """
    home = f"/agents/{name}"
    await lip.mkdir(home, 0o700, parents=True)
    await lip.chattr(home, durable="pages")
    async with lip.open(f"{home}/memory.kv", create=True) as memory, memory.lock(timeout_s=60):
        known = (await memory.stat()).frontier  # after a restart too: its pages are on disk, nothing is computed again
        if not memory.length:
            await memory.append(PERSONA)
        await memory.append(f"Visitor: {say}\nKeeper:")
        answer = await memory.generate(max_tokens, stop="\n")
        await memory.append("\n")
        turns = (await memory.text()).count("Visitor: ")
        try:
            await memory.sync()  # now nothing takes it away
            is_kept = True
        except lip.NotSupported:  # a server without a state directory
            is_kept = False
    if forget:
        await lip.unlink(f"{home}/memory.kv")
        await lip.rmdir(home)
        await lip.rmdir("/agents")
    return {"answer": answer.text.strip(), "turns": turns, "known": known, "kept": is_kept}
