"""Code as action: what the model writes runs as a child with little time and memory, no tools, no tokens, and no children."""

import json
import re

from vllm_symphony import lip

HOW = "Answer with a Python program in a ```python block whose `def main()` returns the result. The question: "
TIGHT = lip.Limits(tokens=0, wall_s=10.0, cpu_s=2.0, memory_bytes=128 << 20, depth=0, tool_calls=0)


async def main(
    question: str = "What is the sum of the squares below 10?", turns: int = 3, max_tokens: int = 96
) -> dict[str, object]:
    """Let the model compute its answer; what goes wrong is told to it, and it tries again.

    Args:
        question: what to find out
        turns: how many programs it may write
        max_tokens: length of each, at most
    """
    errors: list[str] = []
    async with lip.open(tokens=lip.render_chat(HOW + question)) as chat:
        for _ in range(turns):
            reply = await chat.generate(max_tokens, stop="```\n")
            answer, error = await run(code_in(reply.text))
            if error is None:
                return {"answer": answer, "errors": errors}
            errors.append(error)
            await chat.append(f"\nThat failed: {error}\nOnce more:\n")
    return {"answer": None, "errors": errors}


def code_in(reply: str) -> str:
    """The text of its block, or all of it if there is none."""
    block = re.search(r"```python\n(.*?)(```|$)", reply, re.DOTALL)
    return block[1] if block else reply


async def run(code: str) -> tuple[object, str | None]:
    """What the program returns, or what went wrong."""
    try:
        child = await lip.spawn(code, limits=TIGHT, tools=())
    except lip.BadProgram as error:
        return None, error.message
    end = await child.status()
    return (json.loads(end.value or "null"), None) if end.code == 0 else (None, end.error or end.reason)
