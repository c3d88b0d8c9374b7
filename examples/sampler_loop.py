"""A program owns its sampler: one that no server offers, at one system call a token, since its draws are exact at the program."""

from vllm_symphony import lip


async def main(question: str = "Tell me a story about the sea.", max_tokens: int = 64, sure: float = 0.7, seed: int = 1) -> str:
    """Decode greedily where the model is sure, and freely where it is not.

    Args:
        question: what to ask the model
        max_tokens: length of the answer, at most
        sure: probability of the best token from which it is taken without a draw
        seed: the same seed gives the same answer
    """
    end = (await lip.model_info()).eos_tokens
    async with lip.open(tokens=lip.render_chat(question)) as chat:
        start = chat.length
        dist = await chat.forward()
        for _ in range(max_tokens):
            temperature = 0.0 if dist.p >= sure else 1.2
            token = await dist.sample(temperature=temperature, top_k=10, seed=seed)
            if token in end:
                break
            dist = await chat.forward(token)
        return await chat.text(start)
