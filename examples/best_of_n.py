"""Drafts share their prompt: n answers by forks of one KV file, computed once; the model's own log-probabilities pick the best."""

from vllm_symphony import lip


async def main(question: str, n: int = 4, max_tokens: int = 128, temperature: float = 0.5) -> str:
    """Answer by the best of n drafts.

    Args:
        question: what to ask the model
        n: how many drafts
        max_tokens: length of a draft, at most
        temperature: how freely the drafts are drawn
    """
    async with lip.open(tokens=lip.render_chat(question)) as prompt, lip.group() as g:
        await prompt.forward()
        drafts = [g.start(draft, prompt, max_tokens, temperature) for _ in range(n)]
    return max((d.result for d in drafts), key=lambda a: a.logprob / len(a.tokens)).text


async def draft(prompt: lip.File, max_tokens: int, temperature: float) -> lip.Completion:
    """One draft, on a fork of its own."""
    async with prompt.fork() as file:
        return await file.generate(max_tokens, temperature=temperature, logprobs=True)
