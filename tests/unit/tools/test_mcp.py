"""MCP tools against real servers: one of the mcp package, and one that hangs, dies and floods."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.unit.tools.local import KEY, config, run
from vllm_symphony import errors
from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.runtime.sandbox import landlock
from vllm_symphony.tools import driver, mcp_session, mcp_stdio
from vllm_symphony.tools.dial import tls_context
from vllm_symphony.tools.driver import Call
from vllm_symphony.tools.mcp import McpDriver
from vllm_symphony.tools.mcp_stdio import Noise
from vllm_symphony.tools.schema import check_arguments
from vllm_symphony.tools.secret import Vault

SERVERS = Path(__file__).parent / "servers"
WILD = f"""
[mcp.wild]
command = ["{sys.executable}", "{SERVERS / "wild.py"}"]
user = "server"
"""
NOTES = f"""
[mcp.notes]
command = ["{sys.executable}", "{SERVERS / "notes.py"}"]
user = "server"
environment = {{ SHELF = "kitchen" }}
"""


class Tools:
    """The MCP driver over a file."""

    def __init__(self, folder: Path, text: str, **environment: str) -> None:
        self.config = config(folder, text)
        self.driver = McpDriver(self.config, Vault(self.config, environment), tls_context(None))

    async def __call__(self, name: str, *, principal: str = "me", within_s: float = 20.0, **arguments: Any) -> ToolResult:
        deadline_s = asyncio.get_running_loop().time() + within_s
        async with asyncio.timeout_at(deadline_s):
            tool = await self.driver.find(principal, name)
            assert tool is not None
            return await driver.run(tool, Call(principal, arguments, deadline_s))


@asynccontextmanager
async def tools(folder: Path, text: str, **environment: str) -> AsyncIterator[Tools]:
    made = Tools(folder, text, **environment)
    try:
        yield made
    finally:
        await made.driver.close()
        assert made.driver.awake() == []


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while alive(pid):  # noqa: ASYNC110  a process is no event of ours
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def no_folder_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    place = Path(tempfile.mkdtemp(prefix="test-mcp-", dir="/tmp"))
    place.chmod(0o755)  # servers run as others
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    place.rmdir()  # which works for an empty one only


def test_a_real_server_is_listed_and_called(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, NOTES + 'tools = ["add", "search", "fail"]\nidempotent = ["search"]') as t:
            await t.driver.start(lambda _: None)
            assert t.driver.awake() == []  # asked, and ended again

            listed = {tool.info.name: tool.info for tool in t.driver.tools("me")}
            assert list(listed) == ["notes_add", "notes_search", "notes_fail"]
            assert listed["notes_add"].description == "Keep a note; how many there are."
            assert json.loads(listed["notes_add"].schema)["required"] == ["text"]
            assert [info.idempotent for info in listed.values()] == [False, True, False]

            added = await t("notes_add", text="milk")
            assert (added.content, json.loads(added.json or ""), added.is_error) == ("1", {"result": 1}, False)
            found = await t("notes_search", word="mil")
            assert (found.content, json.loads(found.json or "")) == ("milk", {"result": ["milk"]})
            assert (await t("notes_fail")).is_error

    run(main())


def test_principals_share_neither_process_nor_secret(tmp_path: Path) -> None:
    text = WILD + '[secret.token]\nenv = "TOKEN_OF_ME"\ntools = ["wild"]\nprincipals = ["me"]\nvariable = "TOKEN"'

    async def main() -> None:
        async with tools(tmp_path, text, TOKEN_OF_ME=KEY) as t:
            pids = {who: (await t("wild_pid", principal=who)).content for who in ("me", "you")}
            assert pids["me"] != pids["you"]
            assert (await t("wild_pid")).content == pids["me"]
            assert {(server, who) for server, who, _ in t.driver.awake()} == {("wild", "me"), ("wild", "you")}

            assert (await t("wild_echo", principal="me")).content == "[secret token]"
            assert (await t("wild_echo", principal="you")).content == "-"

    run(main())


def test_a_server_sees_what_is_declared_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "ours alone")

    async def main() -> None:
        async with tools(tmp_path, NOTES) as t:
            seen = json.loads((await t("notes_environment")).content)

            folder = seen.pop("cwd")
            assert seen.pop("uid") == str(os.getuid())
            fixed = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": folder, "TMPDIR": folder}
            assert seen == {**fixed, "SHELF": "kitchen"}
            assert Path(folder).is_dir()  # noqa: ASYNC240  it is there while the server is

    run(main())


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/python3").exists(), reason="needs root, and a Python that all can read")
def test_a_server_runs_as_a_user_that_nobody_else_has(tmp_path: Path) -> None:
    source = (SERVERS / "wild.py").read_text().replace("text = str(os.getpid())", 'text = f"{os.getuid()} {os.getgroups()}"')
    text = f'[mcp.wild]\ncommand = ["/usr/bin/python3", "-c", {json.dumps(source)}]'

    async def main() -> None:
        async with tools(tmp_path, text) as t:
            users = [(await t("wild_pid", principal=who)).content for who in ("me", "you")]

            assert users == [f"{mcp_stdio.FIRST_UID} []", f"{mcp_stdio.FIRST_UID + 1} []"]

    run(main())


@pytest.mark.skipif(landlock.version() < 6, reason="needs Landlock with scopes")
def test_a_server_writes_where_it_may_and_signals_none_but_its_own(tmp_path: Path) -> None:
    shelf, outside = tmp_path / "shelf", tmp_path / "outside"
    shelf.mkdir()
    outside.mkdir()
    outside.chmod(0o777)
    attempts = {
        "home": "open('note', 'w').write('x')", "shelf": f"open('{shelf}/note', 'w').write('x')", "null": "open('/dev/null', 'w')",
        "outside": f"open('{outside}/note', 'w')", "remove": f"os.rmdir('{outside}')", "signal": "os.kill(os.getppid(), 0)",
        "read": f"open('{tmp_path}/tools.toml').read()", "child": "subprocess.run(['true'], check=True)",
    }  # fmt: skip
    body = "\n".join(
        f"    try:\n        {code}; said.append('{name}')\n    except OSError: pass" for name, code in attempts.items()
    )
    source = (SERVERS / "wild.py").read_text().replace("text = str(os.getpid())", "text = ' '.join(tried())")
    source = f"import os, subprocess\ndef tried():\n    said = []\n{body}\n    return said\n{source}"
    (tmp_path / "server.py").write_text(source)
    table = '[mcp.wild]\ncommand = ["{python}", "./server.py"]\nuser = "server"\n'

    async def main() -> None:
        async with tools(tmp_path, table + f'writable = ["{shelf}"]') as t:
            assert (await t("wild_pid")).content == "home shelf null read child"
        async with tools(tmp_path, table + 'writable = ["*"]') as t:
            assert (await t("wild_pid")).content.split() == ["home", "shelf", "null", "outside", "signal", "read", "child"]

    run(main())


def test_a_server_that_its_user_cannot_run_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, '[mcp.x]\ncommand = ["/nowhere/server"]') as t:
            with pytest.raises(errors.BrokenPipe, match=r"ended \(exit code 127\): cannot run /nowhere/server.*: No such file"):
                await t("x_tool")

    run(main())


def test_a_server_that_dies_is_told_and_started_again_after_a_rest(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD) as t:
            pid = int((await t("wild_pid")).content)
            with pytest.raises(errors.BrokenPipe, match=r"the MCP server wild ended \(exit code 3\): out of luck"):
                await t("wild_die")
            await gone(pid)
            with pytest.raises(errors.BrokenPipe, match="wild rests: the MCP server wild ended") as rests:
                await t("wild_pid")
            assert 0 < (rests.value.retry_after_s or 0) <= mcp_session.FIRST_REST_S
            await asyncio.sleep(rests.value.retry_after_s or 0)
            assert int((await t("wild_pid")).content) != pid

    run(main())


def test_an_idempotent_call_outlives_its_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD + 'idempotent = ["die", "pid"]') as t:
            with pytest.raises(errors.BrokenPipe):
                await t("wild_die", within_s=1.0)
            assert (await t("wild_pid")).num_tries == 2  # the first met the rest

    run(main())


@pytest.mark.parametrize(
    ("tool", "cause"),
    [("flood", "flooded us"), ("spam", "flooded us"), ("line", "wrote a line of more than 4194304 bytes")],
)  # fmt: skip
def test_a_server_that_floods_is_ended(tmp_path: Path, tool: str, cause: str) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD) as t:
            pid = int((await t("wild_pid")).content)
            with pytest.raises(errors.BrokenPipe, match=cause):
                await t(f"wild_{tool}")
            await gone(pid)
            assert t.driver.awake() == []

    run(main())


def test_a_server_that_hangs_twice_is_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD) as t:
            pid = int((await t("wild_pid")).content)
            for _ in range(mcp_session.MAX_LATE):
                assert alive(pid)
                with pytest.raises(TimeoutError):
                    await t("wild_hang", within_s=0.2)
            await gone(pid)

    run(main())


def test_a_server_that_does_not_get_ready_is_ended(tmp_path: Path) -> None:
    text = WILD.replace('wild.py"]', 'wild.py", "--mute"]') + "start_timeout_s = 0.5"

    async def main() -> None:
        async with tools(tmp_path, text) as t:
            with pytest.raises(errors.TimedOut, match=r"was not ready in 0\.5 s"):
                await t("wild_pid")
            assert t.driver.awake() == []
            await t.driver.start(lambda _: None)  # a list that cannot be had is no error of the host's start
            assert t.driver.tools("me") == []

    run(main())


def test_what_a_server_started_and_hid_ends_with_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD) as t:
            await t("wild_spawn")
            ((_, _, launcher),) = t.driver.awake()
            assert launcher is not None
            async with asyncio.timeout(10):  # until the last of them has the launcher for a parent
                while len(tree := [p.pid for p in psutil.Process(launcher).children()]) < 2:  # noqa: ASYNC110  as above
                    await asyncio.sleep(0.01)
        for pid in tree:
            await gone(pid)

    run(main())


def test_a_launcher_whose_parent_dies_ends_its_program(tmp_path: Path) -> None:
    """As when the tool host is killed: nothing of a server may be left."""
    folder = tmp_path / "home"
    folder.mkdir()
    script = f"""
import json, subprocess, sys, time
from vllm_symphony.tools import mcp_stdio
spec = {{"uid": -1, "folder": {str(folder)!r}, "cwd": "/", "writable": [], "command": ["sleep", "3600"]}}
subprocess.Popen([sys.executable, "-I", "-S", mcp_stdio._LAUNCHER, json.dumps(spec)])
time.sleep(3600)
"""

    async def main() -> None:
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        try:
            async with asyncio.timeout(20):
                while len(tree := psutil.Process(parent.pid).children(recursive=True)) < 2:  # noqa: ASYNC110  as above
                    await asyncio.sleep(0.01)
        finally:
            parent.kill()
            await parent.wait()
        for process in tree:
            await gone(process.pid)

    run(main())
    assert not folder.exists()


def test_an_idle_server_is_ended_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD + "idle_s = 0.1") as t:
            pid = int((await t("wild_pid")).content)
            await gone(pid)
            assert int((await t("wild_pid")).content) != pid

    run(main())


def test_too_many_servers_end_the_one_that_rested_longest(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD + "[host]\nmax_servers = 2") as t:
            for who in ("a", "b", "c"):
                await t("wild_pid", principal=who)
            assert [who for _, who, _ in t.driver.awake()] == ["b", "c"]

            busy = [asyncio.create_task(t("wild_hang", principal=who, within_s=5)) for who in ("b", "c")]
            await asyncio.sleep(0.1)
            with pytest.raises(errors.WouldBlock, match="2 MCP servers work"):
                await t("wild_pid", principal="a")
            for task in busy:
                task.cancel()
            await asyncio.wait(busy)

    run(main())


def test_a_cancelled_call_leaves_the_server_to_others(tmp_path: Path) -> None:
    async def cancel(what: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(what)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> None:
        async with tools(tmp_path, WILD) as t:
            await cancel(t("wild_pid"))  # while it starts
            pid = (await t("wild_pid")).content
            await cancel(t("wild_hang"))
            assert [p for _, _, p in t.driver.awake()] != [] and alive(int(pid))

    run(main())


def test_a_result_has_a_limit_and_errors_of_the_server_are_results(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD + "max_result_bytes = 1000") as t:
            big = await t("wild_big")
            assert big.truncated and big.content == "b" * 1000
            assert (await t("wild_error")) == ToolResult("-32050: it is what it is", is_error=True)

    run(main())


def test_a_tool_whose_schema_is_too_large_is_left_out_and_one_that_leads_elsewhere_leads_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with tools(tmp_path, WILD) as t:
            await t("wild_pid")
            names = [tool.info.name for tool in t.driver.tools("me")]
            assert "wild_remote" in names and "wild_list" not in names
            assert await t.driver.find("me", "wild_list") is None
            with pytest.raises(errors.InvalidArgument):
                check_arguments((await t.driver.find("me", "wild_remote")).schema, [])  # type: ignore[union-attr]

    run(main())


def test_a_server_that_learns_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_session, "LIST_EVERY_S", 0.05)

    async def main() -> None:
        async with tools(tmp_path, WILD) as t:
            told, heard = [], asyncio.Event()
            await t.driver.start(lambda who: (told.append(who), heard.set()))
            assert await t.driver.find("me", "wild_trick0") is None
            for _ in range(3):
                await t("wild_learn")
            told.clear()
            heard.clear()
            await heard.wait()

            assert await t.driver.find("me", "wild_trick2") is not None
            assert (await t("wild_trick2")).content == (await t("wild_pid")).content
            assert told == ["me"]

    run(main())


def test_noise_has_a_rate() -> None:
    noise = Noise(0.0)

    assert all(noise.take(10, 0.0) for _ in range(999))
    assert not all(noise.take(10, 0.0) for _ in range(2))
    assert all(noise.take(10, 1.0) for _ in range(190))
    assert not noise.take(mcp_stdio.MAX_LINE_BYTES, 1.0)
