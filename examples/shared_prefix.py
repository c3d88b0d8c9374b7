"""KV outlives who made it: one process computes a text once, others open it by name and answer from it."""

from vllm_symphony import lip

HANDBOOK = """Handbook of the lighthouse. The lamp is lit at dusk and put out at dawn. The keeper writes the log at noon.
In fog the horn sounds twice a minute. The boat with oil and letters comes on the first Monday of the month.
"""
QUESTIONS = ["When is the lamp lit?", "When does the boat come?"]


async def main(text: str = HANDBOOK, questions: list[str] = QUESTIONS, max_tokens: int = 32) -> dict[str, str]:
    """Let one process a question answer from the same computed text.

    Args:
        text: what all of them have read
        questions: one process each
        max_tokens: length of an answer, at most
    """
    path = f"/tmp/handbook-{await lip.getpid()}"
    async with lip.open(path, text=text, exclusive=True) as book:
        await book.forward()
    try:
        readers = [await lip.spawn(answer, path, question, max_tokens) for question in questions]
        return {question: await reader.wait() for question, reader in zip(questions, readers, strict=True)}
    finally:
        await lip.unlink(path)


async def answer(path: str, question: str, max_tokens: int) -> str:
    """Runs as a program of its own: nothing of the text is computed again."""
    async with lip.open(path) as book, book.fork() as mine:
        await mine.append(f"Question: {question}\nAnswer:")
        return (await mine.generate(max_tokens, stop="\n")).text.strip()
