"""The official client of OpenAI at vLLM's own server, with us named in VLLM_PLUGINS and nothing else of its launch line changed."""

from __future__ import annotations

import asyncio
import socket
import time

import psutil
import pytest
from openai import OpenAI

from tests.counts import FULL
from tests.dropin.server import TOOL_FLAGS, serve_vllm
from tests.web.key import key
from tests.web.openai_suite import SUITE
from vllm_symphony.client import connect

pytestmark = [
    pytest.mark.xdist_group("engine_b"),
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.keeps("fds"),  # the clients' connections
    pytest.mark.skipif(not FULL, reason="a second engine: at full counts only"),
]
SHOUT = "async def main(prompt: str):\n    print(prompt.upper(), end='')\n"
KEEP = """from vllm_symphony import lip

async def main(path: str, text: str):
    async with lip.open(path, text=text) as file:
        await file.forward()
        return (await file.stat()).length
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = serve_vllm(tmp_path_factory.mktemp("plugin"), *TOOL_FLAGS, "--enable-prompt-tokens-details", port=port)
    deadline = time.monotonic() + 400
    while "Application startup complete" not in served.said():
        assert served.process.poll() is None and time.monotonic() < deadline, served.said()[-3000:]
        time.sleep(0.1)
    yield served
    running = served.processes()
    served.stop()
    _, left = psutil.wait_procs(running, timeout=30)
    for process in left:
        process.kill()
    assert not left, "the edge beside vLLM ends with it"


@pytest.fixture(scope="module", params=["a Symphony token", "no token"])
def client(server, request):
    shown = key(server, "ann") if request.param == "a Symphony token" else "none"
    with OpenAI(base_url=f"{server.http}/v1", api_key=shown, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("does", SUITE, ids=lambda does: does.__name__)
def test_the_official_client(client, does):
    does(client)


def test_programs_and_files_are_there(server):
    token = key(server, "ann")

    async def prepare() -> int:
        async with connect(server.socket, token=token) as us:
            await us.install(SHOUT, "shout@1")
            return (await us.run(KEEP, path="/tmp/plugin.kv", text="The lamp is lit at dusk. " * 20).result()).value

    length = asyncio.run(prepare())
    with OpenAI(base_url=f"{server.http}/v1", api_key=token, max_retries=0) as client:
        said = client.completions.create(model="lip:ann/shout", prompt="quiet").choices[0].text
        over = client.completions.create(
            model="tiny", prompt="The", max_tokens=1, extra_body={"symphony": {"file": "/tmp/plugin.kv"}}
        )

    assert said == "QUIET"
    assert over.usage.prompt_tokens_details.cached_tokens >= length // 32 * 32 > 0
