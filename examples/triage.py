"""A program that says what it may touch: whoever installs it need not read it, whoever runs it cannot be harmed beyond that."""

# /// script
# dependencies = ["numpy>=1.24"]
# requires-python = ">=3.11"
#
# [tool.symphony]
# description = "Sorts a ticket into a queue."
# tools = ["tickets_*"]
# paths = ["~/triage", "/tmp"]
# limits = { tokens = 20000, wall_s = "5m", tool_calls = 4 }
# ///

import numpy as np

from vllm_symphony import lip

RULES = "Sort tickets. Answer with one word: billing, outage or question.\n"
QUEUES = ("billing", "outage", "question")


async def main(ticket: str = "The lamp does not light since this morning.", votes: int = 5) -> dict[str, object]:
    """Say which queue a ticket belongs in, and how sure that is; file it there, if a tool for that was granted.

    Args:
        ticket: what somebody wrote
        votes: how often the model is asked
    """
    async with lip.open(tokens=lip.render_chat(RULES + ticket)) as asked, lip.group() as g:
        await asked.forward()  # computed once, shared by all votes
        drafts = [await asked.fork() for _ in range(votes)]
        cast = [g.start(draft.generate, 16, grammar=lip.choice(QUEUES), temperature=1.0) for draft in drafts]
    words = np.array([vote.result.text for vote in cast])
    queues, counts = np.unique(words, return_counts=True)
    queue = str(queues[counts.argmax()])
    filed = [tool["function"]["name"] for tool in await lip.tools("tickets_file")]
    for name in filed:
        await lip.call_tool(name, queue=queue, text=ticket)
    return {"queue": queue, "sure": float(counts.max() / votes), "filed": bool(filed)}
