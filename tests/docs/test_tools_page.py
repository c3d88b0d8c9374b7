"""docs/tools.md: its file loads, its functions are tools, its program runs, and it names every key that the file may have."""

import asyncio
import json
import re
from pathlib import Path

from vllm_symphony.testing import Machine
from vllm_symphony.tools import config
from vllm_symphony.tools.config import load
from vllm_symphony.tools.driver import Call
from vllm_symphony.tools.python import PythonDriver
from vllm_symphony.tools.secret import Vault

PAGE = (Path(__file__).parents[2] / "docs/tools.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def written(folder: Path) -> config.Config:
    _, plugin = blocks("python")
    (folder / "desk.py").write_text(plugin + "\ndef lookup(principal, key): return [principal, key]\n")
    (folder / "notes.key").write_text("key-of-the-notes")
    text = "\n".join(blocks("toml")) + '\n[secret.desk]\nenv = "DESK"\ntools = ["desk"]\n'
    (folder / "tools.toml").write_text(text)
    return load(folder / "tools.toml")


def test_the_file_of_the_page_loads(tmp_path: Path) -> None:
    read = written(tmp_path)

    assert [tool.name for tool in read.http] == ["weather", "http_get", "tickets"]
    assert [server.name for server in read.mcp] == ["notes", "tracker"]
    assert [secret.name for secret in read.secrets] == ["tracker", "notes", "desk"]
    assert read.granted("ops") == ("weather", "weather", "issues", "notes_*")


def test_the_functions_of_the_page_are_tools(tmp_path: Path) -> None:
    read = written(tmp_path)
    vault = Vault(read, {"DESK": "key-of-the-desk", "TRACKER_TOKEN": "token-of-tracker"})
    driver = PythonDriver(read.python, vault, 2)
    price, orders = driver.tools("me")

    async def call(tool, **arguments):
        return await tool.run(Call("me", arguments, asyncio.get_running_loop().time() + 5))

    assert json.loads(price.info.schema)["properties"]["currency"]["enum"] == ["EUR", "USD"]
    assert asyncio.run(call(price, article="lamp", count=2)).json == "5.0"
    assert json.loads(asyncio.run(call(orders)).json or "") == ["me", "[secret desk]"]


def test_the_program_of_the_page_runs() -> None:
    program, _ = blocks("python")
    with Machine() as m:
        m.tool("weather", lambda city: f"sunny in {city}")
        m.script({"Lima?": '<tool_call>{"name": "weather", "arguments": {"city": "Lima"}}</tool_call>', "in Lima": "It is sunny."})
        run = m.start(program, task="Lima?")
        m.run()

        assert run.value == "It is sunny."


def test_every_key_is_on_the_page() -> None:
    source = Path(config.__file__).read_text()
    keys = set(re.findall(r'(?:t|host|inner)\.(?:string|strings|flag|number|integer|mapping|object|list|file)\(\s*"(\w+)"', source))

    assert len(keys) > 30
    assert {key for key in keys if not re.search(rf"\b{key}\b", PAGE)} == set()
