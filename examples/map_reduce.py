"""Map and reduce: children read the parts of a text at the same time, each with its share of one budget; their parent sums up."""

import json

from vllm_symphony import lip

TEXT = (
    "The lamp was lit at dusk and burned until four. The keeper wrote the log and wound the clock. In the night a boat passed, "
    "low in the water, without a light. He rang the bell twice, and the boat turned away from the rocks. At dawn he found a rope "
    "on the landing, and a sack of oranges tied to it. There was no name on the sack. He ate one, and wrote that down too."
)


async def main(text: str = TEXT, parts: int = 3, max_tokens: int = 24, budget: int = 3000) -> dict[str, object]:
    """Sum up a text that is too long for one: each part in a process of its own, then what they say.

    Args:
        text: what to sum up
        parts: how many children read it
        max_tokens: length of each summary, at most
        budget: tokens that the children may use together, read and written
    """
    words = text.split()
    size = -(-len(words) // parts)
    share = lip.Limits(tokens=budget * size // len(words), depth=0)
    readers = [
        await lip.spawn(sum_up, " ".join(words[start : start + size]), max_tokens, limits=share)
        for start in range(0, len(words), size)
    ]
    ends = [await reader.status() for reader in readers]
    notes = [json.loads(end.value) for end in ends if end.value is not None]
    return {
        "summary": await sum_up(" ".join(notes) or "Nothing was read.", max_tokens),
        "read": len(notes),
        "lost": [end.error for end in ends if end.value is None],  # a child that had too little ends with the reason `limit`
        "tokens": (await lip.getrusage()).children.tokens_out,
    }


async def sum_up(text: str, max_tokens: int) -> str:
    """One sentence for all of it."""
    async with lip.open(tokens=lip.render_chat(f"Sum up in one sentence: {text}")) as chat:
        return (await chat.generate(max_tokens)).text.strip()
