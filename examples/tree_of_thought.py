"""Control flow lives beside the model: threads think in parallel on forks, the model judges, the program keeps the best."""

from heapq import nlargest

from vllm_symphony import lip


async def main(
    question: str = "How can three people cross a river in a boat for two?",
    depth: int = 2,
    breadth: int = 3,
    keep: int = 1,
    max_tokens: int = 40,
) -> str:
    """Answer by a tree of thoughts.

    Args:
        question: what to ask the model
        depth: how many thoughts make an answer
        breadth: how many are tried after each that is kept
        keep: how many are kept at each depth
        max_tokens: length of a thought, at most
    """
    yes, no = (await lip.tokenize(" yes", special=False))[0], (await lip.tokenize(" no", special=False))[0]
    async with lip.open(tokens=lip.render_chat(f"{question} Think in steps, one a line.")) as root:
        await root.forward()
        leaves = [root]
        for _ in range(depth):
            async with lip.group() as g:
                thoughts = [g.start(think, leaf, max_tokens, yes, no) for leaf in leaves for _ in range(breadth)]
            best = nlargest(keep, (t.result for t in thoughts), key=lambda scored: scored[0])
            leaves = [leaf for _, leaf in best]
        return await leaves[0].text(root.length)


async def think(leaf: lip.File, max_tokens: int, yes: int, no: int) -> tuple[float, lip.File]:
    """One more thought after `leaf`, and how much rather the model calls it right than wrong."""
    thought = await leaf.fork()
    await thought.generate(max_tokens, stop="\n", temperature=0.9, top_p=0.95)
    async with thought.fork() as judge:
        row = await (await judge.forward("\nIs this right, yes or no? It is")).logits()
    return row[yes] - row[no], thought
