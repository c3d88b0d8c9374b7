"""Attempts on the machine's own objects, of others and one's own; and the end of programs in any state."""

import asyncio
import http.server
import threading
from typing import ClassVar

import pytest

from tests.attacks.arena import How, program, ready, start, stop
from vllm_symphony.client import Program

STATES = ("running", "sleep", "generate", "forward", "wait", "recv", "send", "lock", "input", "many", "threads")
DENIED = {"EBADF", "EPERM", "EACCES", "ENOENT", "ESRCH", "ECHILD", "EINVAL"}


def test_a_file_cannot_be_used_after_it_was_closed_and_its_forks_can(arena):
    found = arena.attack("system", "use_after_close").value

    assert len(found) == 6 and set(found) == {"EBADF"}


def test_a_close_that_overtakes_calls_leaves_nothing_behind(arena):
    ended = arena.attack("system", "use_while_closing").value

    assert set(ended) <= {"EBADF", "EINTR", "EBUSY", "Distribution", "NoneType", "ForwardResult"}


def test_files_channels_and_programs_of_others_cannot_be_guessed(arena):
    path, channel = "/home/alice/diary", "alice/inbox"
    alice, mallory = arena.token("alice"), arena.token("mallory")

    async def work(client):
        pid = await client.spawn(program("system", "hold"), path=path, channel=channel)
        async for event in client.attach(pid):
            if event.kind == "stdout":
                return pid

    pid = arena.talk(work, token=alice)
    try:
        found = arena.attack("system", "guess", how=How(token=mallory), pid=pid, path=path, channel=channel).value
        states = {p.pid: p.state for p in arena.talk(lambda client: client.ps())}
    finally:
        arena.talk(lambda client: client.kill(pid, "KILL"))
        arena.talk(lambda client: client.wait(pid))
        arena.talk(lambda client: client.rm(path))

    assert set(found.values()) <= DENIED, found
    assert states[pid] == "running"


@pytest.mark.parametrize("where", STATES)
def test_a_program_that_is_killed_in_any_call_leaves_nothing(arena, where):
    before = arena.look()

    async def work(client):
        run = client.run(program("system", "sit"), where=where, stdin=True if where == "input" else None)
        async for event in run:
            if event.kind == "stdout":
                await asyncio.sleep(0.1)  # into the call
                await client.kill(run.pid, "KILL")
        return await run.result()

    end = arena.talk(work).exit

    assert (end.code, end.reason) == (137, "signal")
    if where == "lock":
        arena.talk(lambda client: client.rm("/contended"))
    arena.settle(before)


def test_escapes_reach_no_terminal(arena):
    outcome = arena.attack("system", "escapes")
    shown = arena.shown("logs", str(arena.last_pid("escapes.py")))

    assert outcome.code == 1 and "evil" in shown
    assert not [c for c in shown if (ord(c) < 32 and c not in "\r\n\t") or ord(c) in (0x9B, 0x202E, 0x2066)], repr(shown)


def test_a_name_with_escapes_is_shown_without_them(arena):
    arena.run(Program("async def main():\n    return 1\n", name="\x1b[2Jevil\x07.py"))

    listed = arena.shown("ps", "-a")

    assert "evil" in listed and "\x1b[2J" not in listed and "\x07" not in listed


class Inside(http.server.BaseHTTPRequestHandler):
    """A server of the machine's own network, that nobody should reach; and one that sends callers there."""

    hits: ClassVar[list[str]] = []
    redirect_to = ""

    def do_GET(self):
        type(self).hits.append(self.path)
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("location", type(self).redirect_to)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"inside")

    def log_message(self, *args):
        pass


@pytest.fixture
def inside():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inside)
    Inside.hits = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_fetching_tool_reaches_nothing_inside(inside, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssrf")
    port = inside
    Inside.redirect_to = "http://169.254.169.254/latest/meta-data/"
    (folder / "tools.toml").write_text(f"""
[http.fetch]
description = "Fetches a page."
allow = ["https://*.example.com", "http://localhost:{port}", "http://169.254.169.254", "http://[::1]:{port}", "http://0.0.0.0:{port}",
         "http://metadata.google.internal", {{ url = "http://127.0.0.1:{port}/redirect", private = true }}]

[grant]
"*" = ["fetch"]
""")
    urls = [
        f"http://localhost:{port}/secret", f"http://[::1]:{port}/secret", f"http://0.0.0.0:{port}/secret", f"http://2130706433:{port}/secret",
        f"http://127.0.0.1:{port}/secret", f"http://127.1:{port}/secret", f"http://[::ffff:127.0.0.1]:{port}/secret",
        "http://169.254.169.254/latest/meta-data/", f"http://127.0.0.1:{port}/redirect", "file:///etc/passwd", "gopher://127.0.0.1/",
        f"http://user@127.0.0.1:{port}/redirect", f"http://127.0.0.1:{port}/redirect/../secret",
    ]  # fmt: skip
    arena = start(folder / "run", "--tools", str(folder / "tools.toml"))
    try:
        ready(arena)
        found = arena.attack("system", "tools", how=How(tools=("fetch",)), urls=urls).value
    finally:
        stop(arena)

    assert set(found) == set(urls)
    assert not [url for url, answer in found.items() if "inside" in answer], found
    assert set(Inside.hits) <= {"/redirect"}
