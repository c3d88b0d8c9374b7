"""docs/openai.md: its code runs as it stands, in order, and its codes are those of the errors."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.web.key import key
from vllm_symphony import errors
from vllm_symphony.client import connect

PAGE = (Path(__file__).parents[2] / "docs" / "openai.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
HANDBOOK = """from vllm_symphony import lip

async def main():
    await lip.mkdir("/kb", parents=True)
    async with lip.open("/kb/handbook.kv", text="No cats in the office. " * 20, mode=0o644) as file:
        await file.forward()
"""


@pytest.mark.keeps("fds")  # the page's client
def test_the_code_of_the_page_runs(server_b, monkeypatch, capsys):
    async def prepare() -> None:
        async with connect(server_b.socket, token=key(server_b, "ops")) as client:
            await client.install(program, "triage@1.2")
            made = await client.run(HANDBOOK).result()
            assert made.exit.code == 0, made.exit

    (program,) = [block for block in BLOCKS if "async def main" in block]
    asyncio.run(prepare())
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server_b.http}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", key(server_b, "ann"))
    names: dict[str, object] = {}

    for block in BLOCKS:
        if block is not program:
            exec(block.replace("Qwen/Qwen3-0.6B", "tiny"), names)

    assert "lip:ops/triage@1.2" in names["programs"]
    assert names["answer"].usage.prompt_tokens_details.cached_tokens > 32
    assert "tokens, of it and all that it spawned" in capsys.readouterr().out


def test_the_codes_of_the_page_are_those_of_the_errors():
    rows = re.findall(r"^\| (\d{3}) \| ([^|]+) \|", PAGE, re.MULTILINE)

    assert len(rows) > 8
    for status, codes in rows:
        for code in re.findall(r"`([A-Z]+)`", codes):
            if code != "EIO":  # the root of all errors has it too
                assert errors.BY_REASON[code].http_code == int(status), code
