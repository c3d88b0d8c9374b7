# ruff: noqa: PT017  programs know nothing of pytest
"""Text, processes, time, chance and output."""

from vllm_symphony import lip


async def text_comes_back():
    for text in ("The lamp is lit.", "zwölf Boxkämpfer, 日本, \N{PARROT}", " leading\nand trailing \n"):
        assert await lip.detokenize(await lip.tokenize(text, special=False)) == text
    assert await lip.tokenize("", special=False) == []


async def a_chat_holds_what_was_said():
    tokens = await lip.render_chat("Where is the boat?")
    assert "Where is the boat?" in await lip.detokenize(tokens, skip_special=False)
    longer = await lip.render_chat(
        [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}, {"role": "user", "content": "Thanks."}]
    )
    text = await lip.detokenize(longer, skip_special=False)
    assert text.index("Where?") < text.index("Here.") < text.index("Thanks.")
    without = await lip.render_chat("Where is the boat?", add_generation_prompt=False)
    assert tokens[: len(without)] == without and len(without) < len(tokens)


async def tool_calls_are_found():
    said = 'Wait. <tool_call>{"name": "tide", "arguments": {"port": "Brest"}}</tool_call>'
    found = await lip.parse_tools(said, parser="hermes")
    assert found["tool_calls"][0]["name"] == "tide" and "Brest" in found["tool_calls"][0]["arguments"]
    assert (await lip.parse_tools("nothing here", parser="hermes"))["tool_calls"] == []
    await fails(lip.InvalidArgument, lip.parse_tools("x", parser="no such parser"))


async def the_model_tells_its_limits():
    model = await lip.model_info()
    assert model.vocab_size > 100 and model.page_size >= 1 and model.num_pages > 1 and model.eos_tokens
    assert 0 < model.max_top_k <= model.vocab_size and model.max_positions >= 512


async def a_child_gives_its_value():
    child = await lip.spawn(double, 21)
    assert child.pid != await lip.getpid()
    assert child.pid in [p.pid for p in await lip.ps()]
    assert await child.wait() == 42
    await fails(lip.NoSuchProcess, lip.ps(child.pid))
    other = await lip.spawn("def main(word: str): return word[::-1]", word="tide")
    assert await other.wait() == "edit"


async def a_child_that_fails_says_how():
    for program, code, reason in ((stumble, 1, "exception"), (leave, 7, "exit")):
        child = await lip.spawn(program)
        try:
            await child.wait()
        except lip.ProgramFailed as e:
            assert (e.status.code, e.status.reason) == (code, reason), e.status
        else:
            raise AssertionError("it did not fail")


async def a_child_is_cancelled_or_killed():
    for signal, code in (("TERM", 130), ("KILL", 137)):
        child = await lip.spawn(rest)
        await lip.sleep(0.05)
        await child.kill(signal)
        try:
            await child.wait()
        except lip.ProgramFailed as e:
            assert e.status.code == code, e.status
        else:
            raise AssertionError("it did not end")


async def a_child_may_clean_up_when_it_is_cancelled():
    child = await lip.spawn(tidy)
    while not any(p.pid == child.pid and p.waiting == ("sleep",) for p in await lip.ps()):
        await lip.sleep(0.01)
    await child.kill()
    assert await child.wait() == "tidied"


async def waiting_has_a_limit():
    child = await lip.spawn(rest)
    await fails(lip.TimedOut, child.wait(timeout_s=0.02))
    await child.kill("KILL")
    await fails(lip.ProgramFailed, child.wait())


async def children_end_with_their_parent():
    for _ in range(3):
        await lip.spawn(rest)
    return "gone"


async def time_passes_by_calls():
    before, wall = await lip.monotonic(), await lip.now()
    await lip.sleep(0.03)
    assert await lip.monotonic() - before >= 0.03
    assert await lip.now() - wall >= 0.03 and wall > 1e9
    await lip.sleep(0)


async def threads_sleep_beside_each_other():
    before = await lip.monotonic()
    async with lip.group() as g:
        for _ in range(10):
            g.start(lip.sleep, 0.5)
    assert 0.5 <= await lip.monotonic() - before < 4


async def chance_is_the_processes_own():
    draws = [await lip.random() for _ in range(20)]
    assert len(set(draws)) == 20 and all(0 <= d < 1 for d in draws)


async def output_is_kept_in_order():
    import sys

    print("first")
    lip.emit({"n": 1})
    print("an error", file=sys.stderr)
    lip.emit([2])
    print("last")
    return {"done": True}


async def the_first_failure_ends_a_group():
    try:
        async with lip.group() as g:
            g.start(lip.sleep, 60)
            g.start(stumble_soon)
    except ValueError as e:
        assert str(e) == "stumbled"
    else:
        raise AssertionError("the group did not fail")


async def double(n: int):
    return 2 * n


async def stumble():
    raise ValueError("stumbled")


async def stumble_soon():
    await lip.sleep(0.01)
    raise ValueError("stumbled")


def leave():
    raise SystemExit(7)


async def rest():
    await lip.sleep(600)


async def tidy():
    import asyncio

    try:
        await lip.sleep(600)
    except asyncio.CancelledError:
        await lip.sleep(0.01)
        return "tidied"


async def fails(error, call):
    try:
        await call
    except error as e:
        return e
    raise AssertionError(f"no {error.__name__} was raised")
