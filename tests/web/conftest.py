import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from vllm_symphony.abi.calls import Attach, Install, Ps
from vllm_symphony.abi.types import Credentials, ExitStatus
from vllm_symphony.edge.credentials import OWN, caller
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.lip.schema import schema_of
from vllm_symphony.web.door import Door

API_KEY = "the-server's-own"


class Plain:
    """Stands for vLLM's server: answers what it was asked, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.gone = threading.Event()  # a client of /slow left

    def routes(self) -> list[Route]:
        posts = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize")
        return [
            *(Route(path, self.echo, methods=["POST"]) for path in posts),
            Route("/v1/models", self.models),
            Route("/health", self.page),
            Route("/slow", self.slow),
            Route("/symphony/who", self.who),
            Route("/symphony/", self.page),
        ]

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append({"authorization": request.headers.get("authorization"), "body": body})
        return JSONResponse({"plain": len(body)})

    async def who(self, request: Request) -> Response:
        return JSONResponse({"who": caller(request).principal})

    async def page(self, request: Request) -> Response:
        return Response("a page")

    async def models(self, request: Request) -> Response:
        model = {"id": "tiny", "object": "model", "created": 0, "owned_by": "vllm"}
        return JSONResponse({"object": "list", "data": [model]})

    async def slow(self, request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"data: {}\n\n"
                    await asyncio.sleep(0.01)
            finally:
                self.gone.set()

        return StreamingResponse(pieces(), media_type="text/event-stream")


class HttpDoor:
    """The door over a real kernel on the simulated device, in front of `Plain`, in a thread of its own."""

    def __init__(self, server: Any, *, api_key: str | None = None) -> None:
        self.server = server
        self.plain = Plain()
        self.tokens = TokenFile(server.run_dir / "state")
        self._api_key = api_key
        self._loop: asyncio.AbstractEventLoop | None = None
        self._config = uvicorn.Config(self._app(), host="127.0.0.1", port=0, log_level="error", lifespan="on")
        self._uvicorn = uvicorn.Server(self._config)
        self._thread = threading.Thread(target=self._uvicorn.run, name="http-door")

    def _app(self) -> Any:
        identity = Identity(self.tokens)
        identity.confined("A")

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            self._loop = asyncio.get_running_loop()
            self.link = KernelLink(str(self.server.run_dir / "kernel.sock"))
            await self.link.open()
            door.keywords["link"] = self.link
            watching = asyncio.create_task(identity.watch())
            yield
            watching.cancel()
            self.link.close()

        app = Starlette(routes=self.plain.routes(), lifespan=lifespan)
        door = Late(app, identity=identity, api_key=self._api_key)
        return door

    def start(self) -> None:
        self._thread.start()
        while not self._uvicorn.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        self.port = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(20)

    def token(self, name: str, principal: str | None = None, **more: Any) -> str:
        """A new token of a principal."""
        token, text = make(name, principal or name, now_s=time.time(), **{"scopes": ("run",), **more})
        self.tokens.add(token)
        return text

    def call(self, op: str, args: Any, cred: Credentials = OWN) -> Any:
        """A call to the kernel from outside its loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self.link.call(op, args, cred), self._loop).result(30)

    def install(self, source: str, name: str, version: str = "1.0", owner: str = OWN.principal, **more: Any) -> str:
        """A program's name as a model."""
        cred = OWN if owner == OWN.principal else Credentials(owner, scopes=("run",))
        self.call("install", Install(name, version, source=source, schema=schema_of(source), **more), cred)
        return f"lip:{owner}/{name}@{version}"

    def process(self, pid: int) -> Any:
        return self.call("ps", Ps(pid)).processes[0]

    def ended(self, pid: int) -> ExitStatus:
        """How it ended; waits for that."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._over(pid), self._loop).result(30)
        return self.process(pid).exit

    async def _over(self, pid: int) -> None:
        async for _ in self.link.stream("attach", Attach(pid), OWN):
            pass


class Late:
    """A door whose link is made when its loop runs."""

    def __init__(self, app: Any, **keywords: Any) -> None:
        self.app, self.keywords = app, keywords
        self.door: Door | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if self.door is None:
            self.door = Door(self.app, **self.keywords)
        await self.door(scope, receive, send)


@pytest.fixture(scope="session")
def door(sim_server) -> Iterator[HttpDoor]:
    door = HttpDoor(sim_server)
    door.start()
    yield door
    door.stop()


@pytest.fixture(scope="session")
def keyed_door(sim_server) -> Iterator[HttpDoor]:
    """In front of a server with an API key of its own."""
    door = HttpDoor(sim_server, api_key=API_KEY)
    door.start()
    yield door
    door.stop()


@pytest.fixture(scope="session")
def ann(door) -> str:
    """A token."""
    return door.token("ann")
