"""Clients in processes of their own: `python -m benchmarks.outside WHAT SOCKET JSON` (benchmarks/outside.py).

    kernel-calls   programs/calls.py over the kernel's unix socket: the same program, another door
    grpc-calls     each unary RPC of the edge, one at a time
    door-...       programs/door.py as a client: over the kernel's socket, as a session's stream, as a session's unary calls
    idle           so many sessions that do nothing, each with a connection, until stdin closes
    launch         programs by Run, `at_once` of them, `times` times
    disturb        pings and launches at given rates, until stdin closes
    ping           one ping after another at a given rate, until stdin closes: milliseconds of each

Answers one JSON line on stdout (`disturb`, `ping` and `idle`: `ready` first). So what a client costs is in no measured process.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import socket as sockets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from benchmarks.programs import source
from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.client import connect
from vllm_symphony.client.client import Client

PAUSE_S = 0.004  # as in programs/calls.py


async def kernel_calls(socket: str, options: dict[str, Any]) -> dict[str, list[float]]:
    return await over_socket("calls", socket, options)


async def over_socket(program: str, socket: str, options: dict[str, Any]) -> dict[str, list[float]]:
    """One of the programs, as a client of the kernel."""
    from vllm_symphony.abi import calls
    from vllm_symphony.lip import transport as lip_transport
    from vllm_symphony.runtime.transport import SocketTransport

    sock = sockets.socket(sockets.AF_UNIX)
    sock.connect(socket)
    transport = SocketTransport(sock)
    transport.start()
    await transport.call("hello", calls.Hello(ABI_MAJOR, ABI_MINOR, "client"))
    lip_transport.bind(transport, seed=1)
    samples: dict[str, list[float]] = await importlib.import_module(f"benchmarks.programs.{program}").main(**options)
    transport.close()
    return samples


async def grpc_calls(socket: str, options: dict[str, Any]) -> dict[str, list[float]]:
    """`path` is a named file."""
    path, num_rounds = options["path"], options["num_rounds"]
    samples: dict[str, list[float]] = {}
    async with connect(socket) as client:
        await client.ping()
        rpcs: dict[str, Callable[[], Awaitable[Any]]] = {
            "ping": client.ping,
            "stat": lambda: client.stat(path),
            "list": client.ls,
            "read": lambda: client.cat(path, count=16, text=False),
            "ps": client.ps,
            "model_info": client.model,
            "tokenize": lambda: client.tokenize("The lamp is lit at dusk, and put out at dawn."),
            "detokenize": lambda: client.detokenize([100, 101, 102, 103]),
        }
        for _ in range(num_rounds):
            for name, rpc in rpcs.items():
                await asyncio.sleep(random.random() * PAUSE_S)
                began = time.perf_counter()
                await rpc()
                samples.setdefault(name, []).append(time.perf_counter() - began)
    return samples


async def door_socket(socket: str, options: dict[str, Any]) -> dict[str, list[float]]:
    return await over_socket("door", socket, options)


async def door_stream(socket: str, options: dict[str, Any]) -> dict[str, list[float]]:
    from benchmarks.programs import door

    async with connect(socket) as client, client.session(lease_s=60, name="/bench/stream"):
        return await door.main(**options)


async def door_unary(socket: str, options: dict[str, Any]) -> dict[str, list[float]]:
    from benchmarks.programs import door
    from benchmarks.unary import UnaryTransport
    from vllm_symphony.lip import transport as lip_transport

    async with UnaryTransport.to(socket) as transport:
        lip_transport.bind(transport, seed=1)
        return await door.main(**options)


async def idle(socket: str, options: dict[str, Any]) -> dict[str, int]:
    """The streams themselves, without the SDK: what they cost here does not matter."""
    from contextlib import AsyncExitStack

    from vllm_symphony.proto.v1 import session_pb2, session_pb2_grpc

    async with AsyncExitStack() as stack:
        streams = []
        for i in range(options["num_sessions"]):
            channel = grpc.aio.insecure_channel(f"unix:{socket}", options=(("grpc.use_local_subchannel_pool", 1),))
            await stack.enter_async_context(channel)
            stub: Any = session_pb2_grpc.SessionServiceStub(channel)
            stream = stub.Connect()
            await stream.write(
                session_pb2.ConnectRequest(
                    hello=session_pb2.Hello(abi_major=ABI_MAJOR, abi_minor=ABI_MINOR, lease_s=60, name=f"/bench/idle-{i}")
                )
            )
            assert (await stream.read()).hello.pid
            streams.append(stream)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return {"sessions": len(streams)}


async def launch(socket: str, options: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds from the request to the first line and to the end of each, and of all together."""
    text = source("hello")
    samples: dict[str, list[float]] = {"first_line": [], "exit": [], "all": []}
    async with connect(socket) as client:
        await client.ping()
        for _ in range(options["times"]):
            began = time.perf_counter()
            async with asyncio.TaskGroup() as tasks:
                for _ in range(options["at_once"]):
                    tasks.create_task(one_launch(client, text, samples))
            samples["all"].append(time.perf_counter() - began)
    return samples


async def one_launch(client: Client, text: str, samples: dict[str, list[float]]) -> None:
    began = time.perf_counter()
    run = client.run(text)
    async for event in run:
        if event.kind == "stdout":
            samples["first_line"].append(time.perf_counter() - began)
    result = await run.result()
    assert result.exit.code == 0, result
    samples["exit"].append(time.perf_counter() - began)


async def disturb(socket: str, options: dict[str, Any]) -> dict[str, float]:
    """Open loop: what is late is not skipped, so that the rate is what it says as long as the server keeps up."""
    text = source("hello")
    done = {"pings": 0.0, "launches": 0.0}
    async with connect(socket) as client:
        await client.ping()
        print("ready", flush=True)
        began = time.perf_counter()

        async def ping() -> None:
            await client.ping()
            done["pings"] += 1

        async def run() -> None:
            await client.run(text).result()
            done["launches"] += 1

        paced = [
            asyncio.create_task(pace(options["pings_per_s"], ping)),
            asyncio.create_task(pace(options["launches_per_s"], run)),
        ]
        await asyncio.to_thread(sys.stdin.read)
        seconds = time.perf_counter() - began
        rates = {name + "_per_s": n / seconds for name, n in done.items()}
        for task in paced:
            task.cancel()
        await asyncio.gather(*paced, return_exceptions=True)
    return rates


async def ping(socket: str, options: dict[str, Any]) -> list[float]:
    found: list[float] = []
    async with connect(socket) as client:
        await client.ping()
        print("ready", flush=True)
        closed = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not closed.done():
            began = time.perf_counter()
            await client.ping()
            found.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(max(0.0, began + 1 / options["per_s"] - time.perf_counter()))
    return found


async def pace(per_s: float, start: Callable[[], Awaitable[None]]) -> None:
    """Start one every 1 / `per_s` seconds, whether or not the earlier ones are done."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for i in range(10**9):
            await asyncio.sleep(max(0.0, began + i / per_s - time.perf_counter()))
            tasks.create_task(start())  # type: ignore[arg-type]


WHAT: dict[str, Callable[[str, dict[str, Any]], Awaitable[Any]]] = {
    "kernel-calls": kernel_calls, "grpc-calls": grpc_calls, "launch": launch, "disturb": disturb, "door-socket": door_socket,
    "door-stream": door_stream, "door-unary": door_unary, "idle": idle, "ping": ping,
}  # fmt: skip

if __name__ == "__main__":
    what, where, words = sys.argv[1:]
    print(json.dumps(asyncio.run(WHAT[what](where, json.loads(words)))), flush=True)  # type: ignore[arg-type]
