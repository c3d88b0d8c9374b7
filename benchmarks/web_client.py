"""The ordinary client of players.py over HTTP (benchmarks/web_client.py): vLLM's own server, /v1/completions on token ids.

Connections are kept, answers come whole (streaming costs the server more), and nothing is done with text: the least that a client
of a server can do. It has a thread for its loop; what comes is heard there.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import aiohttp

from benchmarks.apart import Failed
from benchmarks.players import TIMEOUT_S, Client, Hear
from benchmarks.web import WebServer


class WebClient(Client):
    """Conversations over HTTP. Use it in a `with`."""

    def __init__(self, server: WebServer, *, rtt_s: float = 0.0) -> None:
        super().__init__(server, rtt_s=rtt_s)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="web-client", daemon=True)
        self._thread.start()
        self._http: aiohttp.ClientSession = self._do(self._open(server.url))

    def __enter__(self) -> WebClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._http.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self, url: str) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        return aiohttp.ClientSession(url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    def _prepare(self) -> None:
        """The server's policy is what it was started with."""

    def _submit(self, prompt: list[int], num_tokens: int, served: int, hear: Hear) -> None:
        asyncio.run_coroutine_threadsafe(self._ask(prompt, num_tokens, hear), self._loop)

    async def _ask(self, prompt: list[int], num_tokens: int, hear: Hear) -> None:
        body = {"model": "bench", "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "ignore_eos": True,
                "return_token_ids": True}  # fmt: skip
        async with self._http.post("/v1/completions", json=body) as answer:
            said = await answer.json()
        if answer.status != 200:
            raise Failed(f"{answer.status}: {said}")
        hear(said["choices"][0]["token_ids"], True)
