"""Speculative decoding as a program: guess from what was said before, verify many tokens in one forward, cut what was wrong."""

from itertools import takewhile

from vllm_symphony import lip


async def main(question: str = "Say 'tick tock' ten times.", max_tokens: int = 64, guesses: int = 6) -> dict[str, object]:
    """Decode greedily, with fewer forwards than tokens; the tokens are exactly greedy decoding's.

    Args:
        question: what to ask the model
        max_tokens: length of the answer, at most
        guesses: how many tokens to guess at once
    """
    end = (await lip.model_info()).eos_tokens
    async with lip.open(tokens=lip.render_chat(question)) as chat:
        tokens = await chat.read()
        start, limit = chat.length, chat.length + max_tokens
        token, num_forwards = (await chat.forward(top_k=1)).top1, 1
        while True:
            tokens.append(token)
            if token in end or len(tokens) >= limit:
                break
            guess = follow(tokens)[: min(guesses, limit - len(tokens) - 1)]
            guess = list(takewhile(lambda t: t not in end, guess))
            dists = await chat.forward([token, *guess], outputs="all", top_k=1)
            num_forwards += 1
            right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1].top1, zip(guess, dists, strict=False)))
            tokens += guess[:right]
            token = dists[right].top1
            if right < len(guess):
                await chat.truncate(len(tokens))
    text = await lip.detokenize(tokens[start:])
    return {"text": text, "tokens": tokens[start:], "forwards": num_forwards}


def follow(tokens: list[int]) -> list[int]:
    """What came after the last two tokens the time before."""
    for i in range(len(tokens) - 3, -1, -1):
        if tokens[i : i + 2] == tokens[-2:]:
            return tokens[i + 2 :]
    return []
