"""An agent that reasons and acts: the model asks for tools in its own way, the program runs them, the cache keeps what it read."""

from vllm_symphony import lip


async def main(
    task: str = "What is 17 times 23?", steps: int = 8, max_tokens: int = 300, parser: str = "hermes"
) -> dict[str, object]:
    """Solve a task with all tools that the program was given.

    Args:
        task: what to do
        steps: how often the model may ask for tools
        max_tokens: length of what it says at once, at most
        parser: the format in which the model asks (vLLM's tool parsers)
    """
    tools = await lip.tools()
    messages: list[dict[str, object]] = [{"role": "user", "content": task}]
    used: list[str] = []
    async with lip.open(tokens=lip.render_chat(messages, tools=tools or None)) as chat:
        said = (await chat.generate(max_tokens)).text
        while tools and len(used) < steps:
            asked = await lip.parse_tools(said, parser=parser, tools=tools)
            if not asked["tool_calls"]:
                break
            for call in asked["tool_calls"]:
                print(f"{call['name']} {call['arguments']}", flush=True)
                used.append(call["name"])
            messages += [lip.tool_request(asked), *await lip.run_tools(asked, timeout_s=60)]
            await follow(chat, await lip.render_chat(messages, tools=tools))
            said = (await chat.generate(max_tokens)).text
    return {"answer": said, "used": used}


async def follow(chat: lip.File, tokens: list[int]) -> None:
    """Make the file these tokens. What it has of them stays computed: a step costs what is new in it."""
    known = await chat.read()
    same = next((i for i, (a, b) in enumerate(zip(known, tokens, strict=False)) if a != b), min(len(known), len(tokens)))
    await chat.truncate(same)
    await chat.append(tokens[same:])
