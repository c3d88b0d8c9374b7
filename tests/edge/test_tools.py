"""Tools as a user has them: a server with the example's file, programs at the server that call them, and its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.edge.test_command_line import eventually
from vllm_symphony import lip
from vllm_symphony.client import connect_sync

EXAMPLES = Path(__file__).parents[2] / "examples"
FILE = EXAMPLES / "tools/tools.toml"

PROGRAM = """
from vllm_symphony import lip

async def main(calls: list[str]) -> list[object]:
    import json
    said = []
    for call in calls:
        name, _, args = call.partition(" ")
        try:
            result = await lip.call_tool(name, json.loads(args or "{}"))
            said.append([result.content, result.is_error])
        except lip.SymphonyError as error:
            said.append([error.reason, error.message])
    return said
"""

SLOW = """
import asyncio
from vllm_symphony.tools import tool

@tool
async def nap() -> None:
    await asyncio.sleep(3600)
"""


@pytest.fixture(scope="module")
def sim(fresh_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    (folder / "slow.py").write_text(SLOW)
    for path in FILE.parent.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    text = FILE.read_text().replace('"package"]', '"package", "nap"]')
    (folder / FILE.name).write_text(text + '[python.slow]\nfile = "slow.py"\n')
    return fresh_server("--device", "sim", "--no-state", "--tools", str(folder / FILE.name))


def last(done) -> object:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def run(sim, tmp_path: Path, *calls: str, grant: str | None = "*") -> object:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    tools = ("--tool", grant) if grant is not None else ()
    return last(sim.run("run", *tools, str(program), *(word for call in calls for word in ("--calls", call))))


def test_tools_are_listed(sim) -> None:
    listed = sim.run("tools").stdout

    assert all(name in listed for name in ("calculate", "notes_add", "notes_search", "package"))


@pytest.mark.keeps("children")  # the MCP server, until it is idle
def test_a_confined_program_calls_what_it_was_given_and_no_more(sim, tmp_path: Path) -> None:
    formula = 'calculate {"formula": "(2 + 3) * 4"}'

    assert run(sim, tmp_path, formula, 'calculate {"formula": "open(1)"}', 'calculate {"x": 1}') == [
        ["20", False],
        ["ValueError: only numbers, + - * / and brackets", True],
        ["EINVAL", "arguments: 'formula' is a required property"],
    ]
    assert run(sim, tmp_path, formula, 'notes_add {"text": "x"}', grant="notes_*") == [
        ["ENOENT", "no such tool: calculate (2 are granted here)"],
        ["1", False],
    ]
    assert run(sim, tmp_path, formula, grant=None) == [["ENOENT", "no such tool: calculate (0 are granted here)"]]


@pytest.mark.keeps("children")  # the MCP server, until it is idle
def test_the_notes_example_uses_a_real_mcp_server(sim) -> None:
    value = last(sim.run("run", "--tool", "notes_*", str(EXAMPLES / "mcp_notes.py"), "--fact", "The boat comes on Monday."))

    assert value["notes"] == ["The boat comes on Monday."]
    assert value["answer"]


def test_a_remote_program_has_what_the_operator_grants_its_principal(sim) -> None:
    async def main() -> list[object]:
        names = [tool["function"]["name"] for tool in await lip.tools("ca*")]
        asked = {"tool_calls": [{"id": "1", "name": "calculate", "arguments": {"formula": f"{n} + 1"}} for n in range(5)]}
        return [names, [message["content"] for message in await lip.run_tools(asked)]]

    with connect_sync(sim.run_dir / "symphony.sock") as client:
        assert client.run_here(main) == [["calculate"], ["1", "2", "3", "4", "5"]]


def test_a_limit_of_calls_is_of_the_whole_tree(sim, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    words = [word for _ in range(3) for word in ("--calls", 'calculate {"formula": "1"}')]
    done = last(sim.run("run", "--tool", "*", "--limit", "tool_calls=2", str(program), *words))

    assert done[:2] == [["1", False], ["1", False]]
    assert done[2][0] == "EDQUOT" and "tool_calls: 2 of 2 used" in done[2][1]


def test_why_says_tool_and_a_kill_ends_the_call(sim, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    pid = sim.run("run", "--detach", "--tool", "*", str(program), "--calls", "nap").stdout.split()[-1]

    eventually(lambda: "nap" in sim.run("why", pid).stdout)
    why = sim.run("why", pid).stdout
    sim.run("kill", "-KILL", pid)

    assert "tool" in why
    eventually(lambda: json.loads(sim.run("ps", "--json", pid).stdout)[0]["state"] == "zombie")


@pytest.mark.keeps("children")  # the next tool host
def test_a_tool_host_that_is_killed_is_an_error_of_the_call_and_another_one_comes(sim, tmp_path: Path) -> None:
    (host,) = (p for p in psutil.Process(sim.process.pid).children(recursive=True) if "vllm_symphony.tools.host" in p.cmdline())
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    pid = sim.run("run", "--detach", "--tool", "*", str(program), "--calls", "nap").stdout.split()[-1]
    eventually(lambda: "nap" in sim.run("why", pid).stdout)

    host.kill()
    sim.run("wait", pid)

    assert "EPIPE" in sim.run("ps", "--json", pid).stdout
    eventually(lambda: run(sim, tmp_path, 'calculate {"formula": "1"}') == [["1", False]])


def test_a_mistake_in_the_file_is_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "tools.toml"
    file.write_text('[http.get]\nalow = ["https://example.com"]\n')

    done = serve(file, tmp_path)

    assert done.returncode != 0
    assert f"{file}: [http.get] allow: must list the hosts" in done.stderr


def test_a_plugin_that_cannot_be_imported_keeps_the_server_from_starting(tmp_path: Path) -> None:
    (tmp_path / "desk.py").write_text("import nothing_like_it")
    file = tmp_path / "tools.toml"
    file.write_text('[python.desk]\nfile = "desk.py"\n')

    done = serve(file, tmp_path)

    assert done.returncode != 0
    assert "ModuleNotFoundError: No module named 'nothing_like_it'" in done.stderr


def serve(file: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-m",
        "vllm_symphony.cli.main",
        "serve",
        "--device",
        "sim",
        "--no-state",
        "--run-dir",
        str(folder / "run"),
    ]
    return subprocess.run([*words, "--tools", str(file)], capture_output=True, text=True, timeout=60, env=dict(os.environ))


def test_nothing_is_left_when_the_server_is_killed(fresh_server, tmp_path: Path) -> None:
    server = fresh_server("--device", "sim", "--no-state", "--tools", str(FILE))
    run(server, tmp_path, 'notes_add {"text": "x"}')
    tree = psutil.Process(server.process.pid).children(recursive=True)
    assert any("notes_server.py" in " ".join(p.cmdline()) for p in tree)

    server.process.kill()
    server.process.wait(60)
    _, left = psutil.wait_procs(tree, timeout=60)

    assert left == []
