"""Search is the program's business: beams are forks, and one call moves all of them by a token."""

from heapq import nlargest

from vllm_symphony import lip


async def main(question: str = "Name three rivers.", width: int = 4, max_tokens: int = 32) -> dict[str, object]:
    """Find a likelier answer than greedy decoding does.

    Args:
        question: what to ask the model
        width: how many beams
        max_tokens: length of the answer, at most
    """
    end = (await lip.model_info()).eos_tokens
    async with lip.open(tokens=lip.render_chat(question)) as prompt:
        beams = [(0.0, prompt, await prompt.forward(top_k=width))]
        finished: list[tuple[float, str]] = []
        for _ in range(max_tokens):
            steps = [
                (score + logprob, file, token)
                for score, file, dist in beams
                for token, logprob in zip(dist.ids, dist.logprobs, strict=True)
            ]
            best = nlargest(width - len(finished), steps, key=lambda step: step[0])
            finished += [(score, await file.text(prompt.length)) for score, file, token in best if token in end]
            going = [(score, await file.fork(), token) for score, file, token in best if token not in end]
            if not going:
                break
            dists = await lip.forward_many([(file, token) for _, file, token in going], top_k=width)
            beams = [(score, file, dist) for (score, file, _), dist in zip(going, dists, strict=True)]
        else:
            finished += [(score, await file.text(prompt.length)) for score, file, _ in beams]
    score, text = max(finished)
    return {"text": text, "logprob": score}
