"""Symphony in vLLM's OpenAI server (web/plugin.py): an entry point of `vllm.endpoint_plugins`, loaded where VLLM_PLUGINS names it.

    attach_router(app)    routes below /symphony, the door around all routes
    init_state(...)       the kernel starts in vLLM's engine process (engine/embedded.py); this process calls it by its own socket
    the app's lifespan    ends: programs end and files are written, before vLLM ends the engine

All that an HTTP client of ours may do is decided by the kernel, which is told who asks, as with the gRPC edge.
Source: vllm/plugins/endpoint_plugins/interface.py `EndpointPlugin` (0.32).
"""

from __future__ import annotations

import asyncio
import logging
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_symphony.client.address import TOKEN_NAME
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.own_token import OwnToken
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import NotSupported, SymphonyError
from vllm_symphony.web import live, prefix
from vllm_symphony.web.door import Door
from vllm_symphony.web.launch import Launch, launch

DETACH_S = 15.0  # for programs to end and files to be written

log = logging.getLogger("vllm_symphony")


@dataclass(slots=True)
class Web:
    """What our routes need, as `app.state.symphony`."""

    link: KernelLink
    identity: Identity
    run_dir: Path
    state_dir: Path
    engine_client: Any  # vLLM's EngineClient
    args: Namespace  # of vLLM's server


class SymphonyEndpoint:
    """vLLM makes one, by the entry point."""

    name = "symphony"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._app: Any = None
        self._web: Web | None = None

    def attach_router(self, app: Any) -> None:
        """Our routes; and our part of the app's life."""
        self._app = app
        app.router.routes.extend(live.routes())
        lives = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(running: Any) -> AsyncIterator[Any]:
            async with lives(running) as state:
                watching = asyncio.create_task(self._web.identity.watch()) if self._web else None
                try:
                    yield state
                finally:
                    if watching is not None:
                        watching.cancel()
                    await self._leave()

        app.router.lifespan_context = lifespan

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Start the kernel in the engine's process and connect to it. Raises what keeps it from starting."""
        if engine_client is None:  # vLLM's render server has no engine
            return
        if getattr(args, "api_server_count", None) not in (None, 1):
            raise NotSupported("one server process talks to the kernel: use --api-server-count 1")
        started = await launch()
        try:
            state.symphony = web = self._web = await self._start(engine_client, args, started)
            prefix.install(state, await engine_client.engine_core.call_utility_async("symphony_secret"))
            guard = started.rules.guard(started.state_dir, "http")
            self._app.add_middleware(
                Door, link=web.link, identity=web.identity, hosts=[args.host or ""], api_key=next(iter(_api_keys(args)), None),
                rates=guard.rates, audit=guard.audit,
            )  # fmt: skip
        except Exception as error:
            started.say({"error": str(error), "exit": 1})
            raise

    async def _start(self, engine_client: Any, args: Namespace, started: Launch) -> Web:
        told = await engine_client.engine_core.call_utility_async("symphony_attach", started.words)
        link = KernelLink(started.kernel_socket)
        await link.open()
        own = OwnToken.published(started.run_dir / TOKEN_NAME)
        identity = Identity(TokenFile(started.state_dir), own, unconfined=started.unconfined)
        confinement = told.get("confinement", {})
        identity.confined(str(confinement.get("level", "C")), str(confinement.get("lacks", "")))
        started.say({"ready": told})
        log.info("the kernel runs in process %s", told.get("pid", os.getpid()))
        return Web(link, identity, started.run_dir, started.state_dir, engine_client, args)

    async def _leave(self) -> None:
        """vLLM ends the engine next, and waits for nothing there."""
        if self._web is None:
            return
        web, self._web = self._web, None
        try:
            with suppress(SymphonyError):
                async with asyncio.timeout(DETACH_S):
                    await web.engine_client.engine_core.call_utility_async("symphony_detach")
        except Exception:  # the engine may be dead: it ends all the same
            log.exception("the kernel did not end in order")
        finally:
            web.link.close()


def _api_keys(args: Namespace) -> list[str]:
    """Those that vLLM asks for."""
    import vllm.envs as envs

    return [key for key in (getattr(args, "api_key", None) or [envs.VLLM_API_KEY]) if key]
