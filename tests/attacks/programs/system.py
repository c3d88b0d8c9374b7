"""Attempts on the machine's own objects: files, channels, tools, other programs; and programs that sit in a call to be killed."""

import asyncio
import sys

from vllm_symphony import lip

PROMPT = [1, 2, 3, 4]


async def use_after_close():
    """A KV handle after its end, in this process."""
    found = []
    file = await lip.open(tokens=PROMPT)
    fork = await file.fork()
    await file.close()
    for use in (file.forward([5]), file.fork(), file.truncate(1), file.generate(2), file.read(), file.append([6])):
        try:
            await use
            found.append("worked")
        except lip.SymphonyError as e:
            found.append(e.reason)
    await fork.forward([5])  # what was forked lives on
    return found


async def use_while_closing():
    """The same, with the close overtaking calls that are under way."""
    ended = set()
    for _ in range(20):
        file = await lip.open(tokens=PROMPT)
        calls = [asyncio.ensure_future(file.forward([i])) for i in range(1, 4)]
        await asyncio.sleep(0)
        await file.close()
        for end in await asyncio.gather(*calls, return_exceptions=True):
            ended.add(end.reason if isinstance(end, lip.SymphonyError) else type(end).__name__)
    return sorted(ended)


async def guess(pid: int, path: str, channel: str):
    """Handles and names of others, guessed."""
    from vllm_symphony.abi import calls
    from vllm_symphony.lip import transport

    found = {}

    async def attempt(name, op, args):
        try:
            await transport.call(op, args)
            found[name] = "worked"
        except lip.SymphonyError as e:
            found[name] = e.reason

    for fd in (0, 1, 2, 3, 7, 100, 2**31):
        await attempt(f"fd {fd}", "close", calls.FdArgs(fd))
    for ch in (0, 1, 2, 3, 7, 100):
        await attempt(f"channel {ch}", "channel_close", calls.ChannelArgs(ch))
    for name, opening in (
        ("open", lambda: lip.open(path)), ("channel", lambda: lip.channel(channel, access="rw")),
        ("unlink", lambda: lip.unlink(path)), ("channel_unlink", lambda: lip.channel_unlink(channel)),
    ):  # fmt: skip
        try:
            await opening()
            found[name] = "worked"
        except lip.SymphonyError as e:
            found[name] = e.reason
    for name, signal in (("kill", "KILL"), ("stop", "STOP"), ("term", "TERM")):
        await attempt(name, "kill", calls.Kill(pid, signal))
    await attempt("wait", "wait", calls.Wait(pid))
    await attempt("logs", "attach", calls.Attach(pid))
    return found


async def hold(path: str, channel: str):
    """A program of somebody else with things of its own: for `guess`."""
    async with lip.open(path, create=True, tokens=PROMPT) as file, lip.channel(channel, create=True, access="r") as inbox:
        await file.forward()
        print("ready", flush=True)
        message = await inbox.recv()
        return message.json()


async def escapes():
    """Bytes that command terminals, in output, errors, events and names."""
    text = "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b31m\u202eevil\u2066\r\x08"
    print(text)
    print(text, file=sys.stderr)
    lip.emit(text)
    raise RuntimeError(text)


async def tools(urls: list):
    """The operator's tool that fetches, on addresses inside."""
    found = {}
    for url in urls:
        try:
            result = await lip.call_tool("fetch", {"url": url}, timeout_s=10)
            found[url] = str(result)[:200]
        except lip.SymphonyError as e:
            found[url] = e.reason
    return found


async def generate(file):
    return await file.generate(200, ignore_eos=True)


# ---- one call each, for ever: to be killed in it


async def sit(where: str):
    """Wait in a call until somebody ends it."""
    file = await lip.open(tokens=PROMPT)
    print("ready", flush=True)
    match where:
        case "running":
            while True:
                pass
        case "sleep":
            await lip.sleep(1000)
        case "generate":
            while True:
                await generate(await file.fork())
        case "forward":
            while True:
                await file.forward([5])
                await file.truncate(4)
        case "wait":
            child = await lip.spawn(sit, where="sleep")
            await child.wait()
        case "recv":
            async with lip.channel() as channel:
                await channel.recv()
        case "send":
            async with lip.channel(capacity=1) as channel:
                while True:
                    await channel.send("x")
        case "lock":
            async with lip.open("/contended", create=True) as one, lip.open("/contended", write=True) as two:
                async with one.lock(), two.lock():
                    pass
        case "input":
            await lip.stdin.read()
        case "many":
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(lip.sleep(1000))
                    group.create_task(generate(await file.fork()))
        case "threads":
            async with lip.group() as group:
                for _ in range(10):
                    group.start(lip.sleep, 1000)
