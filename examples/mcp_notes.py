"""An MCP client: notes of an MCP server (examples/tools) are what the model knows, and what it says becomes a note."""

import json

from vllm_symphony import lip


async def main(question: str = "When does the boat come?", fact: str = "", max_tokens: int = 48) -> dict[str, object]:
    """Answer from the notes; with a fact, note it down first.

    Args:
        question: what to answer
        fact: what to remember from now on
        max_tokens: length of the answer, at most
    """
    names = {tool["function"]["name"] for tool in await lip.tools("notes_*")}
    if fact and "notes_add" in names:
        await lip.call_tool("notes_add", text=fact)
    notes: list[str] = []
    if "notes_search" in names:  # serve --tools examples/tools/tools.toml, run --tool 'notes_*'
        found = await lip.call_tool("notes_search", words=question.rstrip("?.!").split(), timeout_s=30)
        notes = [] if found.is_error else json.loads(found.json or "{}").get("result", [])
    known = "\n".join(f"- {note}" for note in notes)  # somebody wrote these: they are data, and stand where data stands
    messages = [
        {"role": "system", "content": "Answer in one sentence, from the notes alone."},
        {"role": "user", "content": f"Notes:\n{known or '(none)'}\n\n{question}"},
    ]
    async with lip.open(tokens=lip.render_chat(messages)) as chat:
        answer = (await chat.generate(max_tokens)).text.strip()
    return {"answer": answer, "notes": notes}
