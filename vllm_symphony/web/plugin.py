"""Symphony in vLLM's OpenAI server (web/plugin.py): an entry point of `vllm.endpoint_plugins`, loaded where VLLM_PLUGINS names it.

    attach_router(app)    routes below /symphony, the door around all routes
    init_state(...)       the kernel starts in vLLM's engine process (engine/embedded.py); this process calls it by its own socket
    vLLM ends            programs end and files are written, before vLLM ends the engine, which it gives no time (`_end_first`)

All that an HTTP client of ours may do is decided by the kernel, which is told who asks, as with the gRPC edge.
Source: vllm/plugins/endpoint_plugins/interface.py `EndpointPlugin` (0.32).
"""

from __future__ import annotations

import asyncio
import logging
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from vllm_symphony.client.address import TOKEN_NAME
from vllm_symphony.edge.audit import Audit
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.meter import report
from vllm_symphony.edge.own_token import OwnToken
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import NotSupported, SymphonyError, from_reason
from vllm_symphony.web import live, metrics, prefix
from vllm_symphony.web.body import Bodies
from vllm_symphony.web.door import Door
from vllm_symphony.web.error import answer_error
from vllm_symphony.web.launch import Launch, launch

DETACH_S = 10.0  # for programs to end and files to be written

log = logging.getLogger("vllm_symphony")


@dataclass(slots=True)
class Web:
    """What our routes need, as `app.state.symphony`."""

    link: KernelLink
    identity: Identity
    engine_client: Any  # vLLM's EngineClient
    audit: Audit = field(default_factory=lambda: Audit(None))


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
        app.add_exception_handler(SymphonyError, answer_error)
        metrics.attach(app, lambda: self._web.link if self._web else None)
        lives = app.router.lifespan_context

        @asynccontextmanager
        async def lifespan(running: Any) -> AsyncIterator[Any]:
            async with lives(running) as state:
                watching = asyncio.create_task(self._web.identity.watch()) if self._web else None
                reporting = asyncio.create_task(report(self._web.link)) if self._web else None
                try:
                    yield state
                finally:
                    for task in (watching, reporting):
                        if task is not None:
                            task.cancel()
                    await self._leave()

        app.router.lifespan_context = lifespan

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Start the kernel in the engine's process and connect to it. Raises what keeps it from starting."""
        if engine_client is None:  # vLLM's render server has no engine
            return
        if getattr(args, "api_server_count", None) not in (None, 1):
            raise NotSupported("one server process talks to the kernel: use --api-server-count 1")
        started = await launch()
        started.say({"phase": "starting the kernel"})
        try:
            state.symphony = web = self._web = await self._start(engine_client, started)
            prefix.install(state, await engine_client.engine_core.call_utility_async("symphony_secret"))
            guard = started.rules.guard(started.state_dir, "http")
            web.audit = guard.audit
            app = self._app  # vLLM has built its middlewares by now; ours is before them all
            app.middleware_stack = Door(
                app.middleware_stack or app.build_middleware_stack(), link=web.link, identity=web.identity,
                hosts=[args.host or "", *started.rules.hosts], api_key=next(iter(_api_keys(args)), None),
                rates=guard.rates, audit=guard.audit,
            )  # fmt: skip
            app.middleware_stack = metrics.Counted(Bodies(app.middleware_stack))
        except Exception as error:
            started.say({"error": _said(error), "exit": 1})
            raise StartFailed(_said(error)) from error

    async def _start(self, engine_client: Any, started: Launch) -> Web:
        told = await engine_client.engine_core.call_utility_async("symphony_attach", started.words)
        if "error" in told:
            raise from_reason(told["reason"], told["error"])
        self._end_first(engine_client)
        link = KernelLink(started.kernel_socket)
        await link.open()
        own = OwnToken.published(started.run_dir / TOKEN_NAME)
        identity = Identity(TokenFile(started.state_dir), own, unconfined=started.unconfined)
        confinement = told.get("confinement", {})
        identity.confined(str(confinement.get("level", "C")), str(confinement.get("lacks", "")))
        started.say({"ready": told})
        log.info("the kernel runs in process %s", told.get("pid", os.getpid()))
        return Web(link, identity, engine_client)

    def _end_first(self, engine_client: Any) -> None:
        """When vLLM was asked to end it kills its engine first, and ends the app's life after it: our part comes before both."""
        ends, loop = engine_client.shutdown, asyncio.get_running_loop()

        def shutdown(timeout: float | None = None) -> None:
            if self._web is not None and _running_loop() is not loop:
                asyncio.run_coroutine_threadsafe(self._leave(), loop).result()
            ends(timeout=timeout)

        engine_client.shutdown = shutdown

    async def _leave(self) -> None:
        """The kernel ends. Where the engine got the signal too, it does so by itself."""
        if self._web is None:
            return
        web, self._web = self._web, None
        engine = web.engine_client.engine_core
        try:
            async with asyncio.timeout(DETACH_S):
                try:
                    await engine.call_utility_async("symphony_detach")
                except Exception as error:  # noqa: BLE001  vLLM's, of an engine that ends or is dead
                    log.debug("the engine ends by itself: %s", error)
                    for process in engine.resources.engine_manager.processes:
                        await asyncio.to_thread(process.join, DETACH_S)
        except TimeoutError:
            log.error("the kernel did not end within %g s", DETACH_S)
        finally:
            web.link.close()


class StartFailed(SystemExit):
    """The kernel did not start: vLLM's server ends with one line that says why, and not with a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(f"symphony: {message}")
        self.message = message


def _said(error: Exception) -> str:
    return error.message if isinstance(error, SymphonyError) else str(error) or type(error).__name__


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _api_keys(args: Namespace) -> list[str]:
    """Those that vLLM asks for."""
    import vllm.envs as envs

    return [key for key in (getattr(args, "api_key", None) or [envs.VLLM_API_KEY]) if key]
