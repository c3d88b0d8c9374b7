"""Two agents debate over channels, each a process with a KV file that grows turn by turn; what both were told is computed once and
lent to them with a message."""

from vllm_symphony import lip

SIDES = ("For", "Against")


async def main(question: str = "Should a server run programs?", rounds: int = 2, max_tokens: int = 32) -> list[str]:
    """Let two agents debate, and give what was said.

    Args:
        question: what they debate
        rounds: how often each of them speaks
        max_tokens: length of what one says at a time, at most
    """
    hall = f"debate-{await lip.getpid()}"
    seats = [await lip.channel(f"{hall}-{side}", exclusive=True, access="w") for side in SIDES]
    agents = [await lip.spawn(debate, seat.name, side, max_tokens) for seat, side in zip(seats, SIDES, strict=True)]
    said: list[str] = []
    async with lip.open(text=f"Two experts debate. The question: {question}\n") as brief:
        await brief.forward()
        for seat in seats:
            await seat.request(None, files=[brief])  # each forks what is computed here
        for turn in range(2 * rounds):
            answer = await seats[turn % 2].request(said[-1] if said else "")
            said.append(f"{SIDES[turn % 2]}: {answer.json()}")
            lip.emit(said[-1])
    for seat, agent in zip(seats, agents, strict=True):
        await seat.unlink()
        await seat.close()  # nobody can send to it any more: the agent's loop ends
        await agent.wait()
    return said


async def debate(seat: str, side: str, max_tokens: int) -> None:
    """One side: hear the other, answer, until the moderator closes the channel."""
    async with lip.channel(seat, access="r") as floor:
        invitation = await floor.recv()
        async with invitation.files[0] as brief, brief.fork() as mine:
            await invitation.reply()
            async for message in floor:
                heard = message.json()
                await mine.append(f'\n{heard}\n{side}: "')
                answer = await mine.generate(max_tokens, stop=('"', "\n"))
                await message.reply(answer.text.strip())
