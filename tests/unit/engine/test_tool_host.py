"""The reactor's end of the tool host, with the real process: jobs, fairness, deaths, silence, the end."""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from vllm_symphony import errors
from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import JobId, Pid
from vllm_symphony.engine import tool_host
from vllm_symphony.engine.poll import Poll
from vllm_symphony.engine.tool_host import ToolHost
from vllm_symphony.kernel.effect import CancelTool, JobFailed, ToolDone, ToolJob
from vllm_symphony.tools.config import load

PLUGIN = '''
import asyncio, logging, os, time
from typing import Annotated, Literal
from vllm_symphony.tools import Context, tool

@tool(idempotent=True)
def echo(text: str) -> str:
    """Say it again."""
    return text

@tool
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds

@tool(timeout_s=0.2)
def stuck() -> str:
    time.sleep(3600)

@tool
def whoami(context: Context) -> dict[str, object]:
    return {"principal": context.principal, "environment": dict(os.environ), "value": context.secret("desk")}

@tool
def leak(context: Context) -> str:
    try:
        raise ValueError(context.secret("desk"))
    except ValueError:
        logging.getLogger("desk").exception("with %s", context.secret("desk"))

@tool
def die(code: int) -> str:
    os._exit(code)

@tool
def freeze() -> str:
    os.kill(os.getpid(), 19)

@tool
def big(size: int) -> str:
    return "b" * size

@tool
def boom() -> str:
    raise ValueError("the key is " + "desk-secret-1")
'''
WAIT_S = 60.0


class Rig:
    """A tool host, and the loop that it needs."""

    def __init__(self, folder: Path, more: str = "", **environment: str) -> None:
        (folder / "desk.py").write_text(PLUGIN)
        path = folder / "tools.toml"
        path.write_text(f"""
[python.desk]
file = "desk.py"
max_result_bytes = 100_000
[secret.desk]
env = "DESK"
tools = ["desk"]
principals = ["me"]
{more}
""")
        self.poll = Poll()
        self.done: dict[int, Any] = {}
        self.host = ToolHost(self.poll, self._deliver, load(path).taking({"DESK": "desk-secret-1", "OURS": "ours", **environment}))
        self._numbers = itertools.count(1)

    def _deliver(self, completions: Any) -> None:
        for completion in completions:
            assert completion.job not in self.done, "completed twice"
            self.done[completion.job] = completion

    def until(self, condition: Callable[[], object]) -> None:
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, "it never came"
            self.poll.turn(time.monotonic_ns() + 20_000_000)

    def start(self, name: str, *, principal: str = "me", timeout_s: float | None = None, **arguments: Any) -> int:
        job = next(self._numbers)
        self.host.submit(ToolJob(JobId(job), principal, Pid(1), name, json.dumps(arguments), timeout_s))
        return job

    def end(self, job: int) -> ToolResult:
        self.until(lambda: job in self.done)
        completion = self.done[job]
        if isinstance(completion, JobFailed):
            raise completion.error
        assert isinstance(completion, ToolDone)
        return completion.result

    def __call__(self, name: str, **more: Any) -> ToolResult:
        return self.end(self.start(name, **more))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(
        tmp_path_factory.mktemp("tools"), "[host]\nmax_calls_per_principal = 2\nmax_queued_per_principal = 3\nmax_threads = 3"
    )
    rig.host.start()
    rig.until(rig.host._settled.is_set)
    yield rig
    rig.host.close()
    rig.poll.close()


@pytest.fixture(autouse=True)
def nothing_is_in_flight(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "rig" in request.fixturenames:
        assert request.getfixturevalue("rig").host.num_in_flight() == 0


def test_the_table_has_schemas_of_signatures(rig: Rig) -> None:
    rig.host.wait_ready(0)
    table = {info.name: info for info in rig.host.table("anybody")}

    assert list(table) == ["echo", "nap", "stuck", "whoami", "leak", "die", "freeze", "big", "boom"]
    assert (table["echo"].description, table["echo"].idempotent, table["echo"].driver) == ("Say it again.", True, "python")
    assert json.loads(table["echo"].schema) == {
        "type": "object", "properties": {"text": {"title": "Text", "type": "string"}}, "required": ["text"],
        "additionalProperties": False,
    }  # fmt: skip
    assert json.loads(table["whoami"].schema)["properties"] == {}


def test_a_call_is_answered(rig: Rig) -> None:
    assert rig("echo", text="hé") == ToolResult("hé")
    assert rig("nap", seconds=0) == ToolResult("0.0", json="0.0")


def test_arguments_that_do_not_fit_are_refused(rig: Rig) -> None:
    for arguments, said in (
        ({}, "'text' is a required"),
        ({"text": 1}, "arguments.text: 1 is not"),
        ({"text": "a", "b": 1}, "'b'"),
    ):
        with pytest.raises(errors.InvalidArgument, match=said):
            rig("echo", **arguments)
    rig.host.submit(ToolJob(JobId(1000), "me", Pid(1), "echo", "[1]", None))
    with pytest.raises(errors.InvalidArgument, match="must be an object"):
        rig.end(1000)
    rig.host.submit(ToolJob(JobId(1001), "me", Pid(1), "echo", "{" * 100_000, None))
    with pytest.raises(errors.InvalidArgument, match="no JSON"):
        rig.end(1001)


def test_a_tool_that_there_is_not_is_enoent(rig: Rig) -> None:
    with pytest.raises(errors.NoSuchFile, match="no such tool: ech"):
        rig("ech", text="x")


def test_the_environment_is_what_was_declared_and_a_secret_its_principals(rig: Rig) -> None:
    seen = json.loads(rig("whoami").json or "")

    assert seen == {
        "principal": "me",
        "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        "value": "[secret desk]",
    }
    refused = rig("whoami", principal="you")
    assert refused.is_error and "no secret 'desk' is bound to desk for you" in refused.content


def test_what_a_function_raises_is_its_result_without_secrets(rig: Rig) -> None:
    assert rig("boom") == ToolResult("ValueError: the key is [secret desk]", is_error=True)


def test_no_log_of_the_host_holds_a_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rig = Rig(tmp_path)
    rig.host.start()
    rig("leak")
    rig.host.close()
    rig.poll.close()

    said = capfd.readouterr().err
    assert "ERROR desk: with [secret desk]" in said and "ValueError: [secret desk]" in said
    assert "desk-secret" not in said


def test_a_result_has_a_limit(rig: Rig) -> None:
    result = rig("big", size=200_000)

    assert result.truncated and len(result.content) == 100_000


def test_a_time_limit_is_the_shorter_of_both(rig: Rig) -> None:
    with pytest.raises(errors.TimedOut, match=r"stuck was not done in 0\.2 s"):
        rig("stuck", timeout_s=30.0)
    with pytest.raises(errors.TimedOut, match=r"nap was not done in 0\.1 s"):
        rig("nap", seconds=60, timeout_s=0.1)


@pytest.mark.keeps("children", "fds")  # the next host of the module's rig
def test_threads_that_are_stuck_are_counted_until_there_is_none(rig: Rig) -> None:
    began_s = time.monotonic()
    while True:
        try:
            rig("stuck")
        except errors.TimedOut:
            continue
        except errors.WouldBlock:
            break
    assert time.monotonic() - began_s < 60
    assert rig("nap", seconds=0).content == "0.0"  # needs none
    rig.host._process.kill()  # type: ignore[union-attr]  # for the tests that follow
    rig.until(lambda: rig.host._num_deaths == 1)
    rig.until(lambda: rig.host._is_ready)


@pytest.mark.parametrize("moment", ["before it is sent", "while it waits", "while it runs", "after it ended"])
def test_a_job_that_is_cancelled_ends_once(rig: Rig, moment: str) -> None:
    ahead = [rig.start("nap", seconds=0.3) for _ in range(2)] if moment == "while it waits" else []
    job = rig.start("nap", seconds=0.0 if moment == "after it ended" else 60.0)
    if moment == "while it runs":
        rig.poll.turn(time.monotonic_ns() + 200_000_000)
    if moment == "after it ended":
        rig.end(job)
    rig.host.cancel(CancelTool(JobId(job)))

    if moment == "after it ended":
        assert rig.end(job).content == "0.0"
    else:
        with pytest.raises(errors.Interrupted):
            rig.end(job)
    for other in ahead:
        rig.end(other)


def test_who_floods_waits_for_himself(rig: Rig) -> None:
    flood = [rig.start("nap", principal="flood", seconds=1.0) for _ in range(12)]
    began_s = time.monotonic()
    rig("nap", principal="calm", seconds=0.0)

    assert time.monotonic() - began_s < 1.0
    refused = 0
    for job in flood:
        try:
            rig.end(job)
        except errors.WouldBlock:
            refused += 1
    assert refused == 12 - 2 - 4  # two run, three wait, and one was let in while the first two were taken


@pytest.mark.keeps("children", "fds")  # the next host of the module's rig
def test_a_host_that_dies_fails_what_was_in_flight_and_comes_back(rig: Rig) -> None:
    waiting = rig.start("nap", seconds=60)
    with pytest.raises(errors.BrokenPipe, match="the tool host ended with exit code 7"):
        rig("die", code=7)
    with pytest.raises(errors.BrokenPipe):
        rig.end(waiting)
    with pytest.raises(errors.BrokenPipe, match="is not there again yet"):
        rig("echo", text="too soon")

    rig.until(lambda: rig.host._is_ready)
    assert rig("echo", text="again").content == "again"


@pytest.mark.keeps("children", "fds")  # the next host of the module's rig
def test_a_host_that_takes_no_messages_is_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_host, "PULSE_S", 0.1)
    monkeypatch.setattr(tool_host, "SILENCE_S", 0.5)
    pid = rig.host.os_pid()
    assert pid is not None
    with pytest.raises(errors.BrokenPipe, match=r"did not answer for 0\.5 s"):
        rig("freeze")
    assert not psutil.pid_exists(pid)
    rig.until(lambda: rig.host._is_ready)


def test_its_memory_and_environment_are_closed_to_others_of_its_user(rig: Rig) -> None:
    """Not dumpable: /proc belongs to root, so that only root may read its environment or trace it."""
    status = Path(f"/proc/{rig.host.os_pid()}/status").read_text()

    assert "CoreDumping:\t0" in status
    assert os.stat(f"/proc/{rig.host.os_pid()}/environ").st_uid == 0


def test_it_ends_with_all_that_it_started(tmp_path: Path) -> None:
    wild = Path(__file__).parents[1] / "tools" / "servers" / "wild.py"
    rig = Rig(tmp_path, f'[mcp.wild]\ncommand = ["{sys.executable}", "{wild}"]\nuser = "server"')
    rig.host.start()
    rig.until(rig.host._settled.is_set)
    rig("wild_pid")
    hanging = rig.start("wild_hang")
    process = psutil.Process(rig.host.os_pid())
    tree = process.children(recursive=True)
    assert len(tree) == 2

    rig.host.close()

    assert isinstance(rig.done[hanging].error, errors.BrokenPipe)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in [process, *tree])
    assert rig.poll.num_watched() == 0 and rig.poll.num_alarms() == 0
    rig.poll.close()


def test_it_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    wild = Path(__file__).parents[1] / "tools" / "servers" / "wild.py"
    rig = Rig(tmp_path, f'[mcp.wild]\ncommand = ["{sys.executable}", "{wild}"]\nuser = "server"')
    rig.host.start()
    rig.until(rig.host._settled.is_set)
    rig("wild_pid")
    tree = psutil.Process(rig.host.os_pid()).children(recursive=True)

    os.kill(rig.host.os_pid() or 0, signal.SIGKILL)
    _, left = psutil.wait_procs(tree, timeout=60)

    assert left == []
    rig.host.close()
    rig.poll.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise RuntimeError('no desk')", r"desk\.py: \[python\.desk\] file: RuntimeError: no desk"),
        ("x = 1", "has no function with @tool"),
        ("from vllm_symphony.tools import tool\n@tool\ndef f(*a): ...", "parameter a has no name"),
    ],
)
def test_a_host_that_cannot_start_says_what_is_to_be_mended(tmp_path: Path, text: str, said: str) -> None:
    rig = Rig(tmp_path)
    (tmp_path / "desk.py").write_text(text)
    rig.host.start()
    rig.until(rig.host._settled.is_set)

    with pytest.raises(errors.InvalidArgument, match=said):
        rig.host.wait_ready(0)
    rig.host.close()
    rig.poll.close()


def test_a_secret_that_is_too_short_is_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path, DESK="short")
    rig.host.start()
    rig.until(rig.host._settled.is_set)

    with pytest.raises(errors.InvalidArgument, match=r"\[secret\.desk\] has 5 characters"):
        rig.host.wait_ready(0)
    rig.host.close()
    rig.poll.close()
