"""Prompts as files: their author may change them, everybody may fork them, and a new edition takes the old one's place at once."""

from vllm_symphony import lip

PROMPTS = {"brief": "Answer in one word.", "polite": "You are polite. Answer in one sentence."}


async def main(
    prompts: dict[str, str] = PROMPTS, question: str = "When is the lamp lit?", max_tokens: int = 16
) -> dict[str, object]:
    """Publish prompts, bring one up to date, and let a process for each answer from it.

    Args:
        prompts: name and text of each
        question: what all of them are asked
        max_tokens: length of an answer, at most
    """
    library = f"/library-{await lip.getpid()}"
    await lip.mkdir(library, 0o755)  # all may look in, only we may change what is there
    paths = {name: f"{library}/{name}.kv" for name in prompts}
    try:
        for name, text in prompts.items():
            await publish(paths[name], text, "first")
        name, text = next(iter(prompts.items()))
        await publish(paths[name], f"{text} Never guess.", "second")
        new = await lip.find(library, name="*.kv", xattr={"edition": "second"})
        readers = {name: await lip.spawn(answer, path, question, max_tokens) for name, path in paths.items()}
        answers = {name: await reader.wait() for name, reader in readers.items()}
        shelf = [f"{file.mode:o} {file.owner} {file.length}" for file in await lip.listdir(library)]
    finally:
        for file in await lip.listdir(library):
            await lip.unlink(f"{file.path}")
        await lip.rmdir(library)
    return {"answers": answers, "shelf": shelf, "new": [file.path == paths[name] for file in new.files]}


async def publish(path: str, text: str, edition: str) -> None:
    """Compute it aside and put it into place whole: who opens the path finds the old edition or the new one."""
    async with lip.open(text=text, mode=0o644) as prompt:
        await prompt.forward()
        await prompt.setxattr("edition", edition)
        await prompt.link(path, replace=True)


async def answer(path: str, question: str, max_tokens: int) -> str:
    """Runs as a program of its own: reading is enough to fork, nothing of the prompt is computed again."""
    async with lip.open(path, require="exact") as prompt, prompt.fork() as mine:
        await mine.append(f"\nQuestion: {question}\nAnswer:")
        return (await mine.generate(max_tokens, stop="\n")).text.strip()
