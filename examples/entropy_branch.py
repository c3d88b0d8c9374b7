"""Steer per token, pay per event: the fused loop runs until the model is unsure, and only there does the program look ahead."""

from vllm_symphony import lip


async def main(
    question: str = "What should one pack for the moon?",
    entropy: float = 1.5,
    width: int = 3,
    max_tokens: int = 96,
    max_branches: int = 6,
) -> dict[str, object]:
    """Branch where the entropy is high, go on with the likeliest branch.

    Args:
        question: what to ask the model
        entropy: in nats; above it the program branches
        width: how many tokens to try at a branch
        max_tokens: length of the answer, at most
        max_branches: from then on, decode to the end
    """
    end = (await lip.model_info()).eos_tokens
    num_branches = 0
    async with lip.open(tokens=lip.render_chat(question)) as chat:
        start = chat.length
        while (room := start + max_tokens - chat.length) > 0:
            unsure = lip.entropy > entropy if num_branches < max_branches else None
            part = await chat.generate(room, until=unsure)
            if part.reason != "until" or part.distribution is None:
                break
            num_branches += 1
            async with lip.group() as g:
                tries = [g.start(look_ahead, chat, token) for token in part.distribution.ids[:width]]
            _, token = max(t.result for t in tries)
            await chat.append(token)
            if token in end:
                break
        return {"text": await chat.text(start), "branches": num_branches}


async def look_ahead(chat: lip.File, token: int, num_tokens: int = 12) -> tuple[float, int]:
    """How sure the model is, per token, of what it would say after `token`."""
    async with chat.fork() as branch:
        await branch.append(token)
        ahead = await branch.generate(num_tokens, logprobs=True, text=False)
    return ahead.logprob / len(ahead.tokens), token
