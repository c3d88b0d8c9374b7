"""`python -m benchmarks.edge KERNEL_SOCKET SOCKET`: the edge of `symphony serve` before a kernel that runs already.

Says `ready` on stdout; ends when its stdin closes.
"""

from __future__ import annotations

import asyncio
import sys

from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.server import EdgeServer, give_way


async def serve(kernel_socket: str, socket: str) -> None:
    give_way()
    kernel = KernelLink(kernel_socket)
    edge = EdgeServer(kernel, socket)
    await edge.start()
    try:
        await kernel.open()
        await edge.ready({"level": "A"})
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await edge.stop(0.5)
        kernel.close()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
