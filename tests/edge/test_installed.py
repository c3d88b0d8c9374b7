"""Installed programs on a real server on the simulated device: two principals, a restart, and sources that are made to harm."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from tests.edge.test_identity import add, addresses, talk
from vllm_symphony.client.run import Program
from vllm_symphony.errors import AccessDenied, BadProgram, NoSuchFile
from vllm_symphony.proto.v1 import registry_pb2

WHO = '''"""Says for whom it runs, and what it may name."""
# /// script
# dependencies = ["numpy>=1.20"]
# [tool.symphony]
# paths = ["~"]
# ///
import numpy
from vllm_symphony import lip


async def main(path: str) -> list:
    """Look at a file.

    Args:
        path: of the file
    """
    try:
        await lip.stat(path)
        found = "there"
    except lip.SymphonyError as error:
        found = error.reason
    stat = (await lip.ps(await lip.getpid()))[0]
    return [stat.principal, stat.program, found, int(numpy.int64(3))]
'''
WAITS = "from vllm_symphony import lip\n\nasync def main():\n    await lip.sleep(600)\n"
MILLION = 1_000_000


@pytest.fixture(scope="module")
def server(fresh_server):
    return fresh_server("--device", "sim", "--listen", "127.0.0.1:0")


@pytest.fixture(scope="module")
def people(server) -> dict[str, str]:
    """Tokens of those who take part."""
    return {name: add(server, name, name, groups=(), scopes=("run",)) for name in ("ops", "ann", "ann@x.org")}


@pytest.fixture(autouse=True)
def settings(monkeypatch, server):
    for name in ("SYMPHONY_TOKEN", "SYMPHONY_TOKEN_FILE", "SYMPHONY_SERVER", "SYMPHONY_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYMPHONY_RUN_DIR", str(server.run_dir))


def at(server, people: dict[str, str], who: str, work) -> Any:
    return talk(addresses(server)[0], work, people[who])


def test_anybody_runs_an_installed_program_as_himself(server, people):
    async def install(client):
        return await client.install(WHO, "who@1.0")

    async def run(client):
        return (await client.run("ops/who@1.0", path="/home/ops").result()).value

    info = at(server, people, "ops", install)

    assert (info.name, info.owner, info.paths, info.dependencies) == ("ops/who", "ops", ("~",), ("numpy>=1.20",))
    assert at(server, people, "ops", run) == ["ops", "ops/who@1.0", "there", 3]
    assert at(server, people, "ann", run) == ["ann", "ops/who@1.0", "EACCES", 3], "~ is the home of who runs it"


def test_a_program_that_others_may_run_but_not_read_runs_by_its_options(server, people):
    source = "async def main(word: str) -> str:\n    return word.upper()\n"

    async def install(client):
        await client.install(source, "secret@1.0", mode=0o711)
        await client.install(source + "# new", "secret@2.0-rc1", mode=0o711)

    async def read(client):
        with pytest.raises(AccessDenied):
            await client.program("ops/secret")

    at(server, people, "ops", install)
    at(server, people, "ann", read)
    env = {"SYMPHONY_SERVER": addresses(server)[0], "SYMPHONY_TOKEN": people["ann"]}

    for name in ("ops/secret", "ops/secret@1.0", "ops/secret@2.0-rc1"):
        assert server.run("run", name, "--word", "quiet", env=env).stdout == "QUIET\n"


def test_an_owner_may_be_called_like_an_address(server, people):
    async def work(client):
        info = await client.install("async def main() -> int:\n    return 7\n", "ann@x.org/seven@1.0")
        return info.name, (await client.run("ann@x.org/seven").result()).value

    assert at(server, people, "ann@x.org", work) == ("ann@x.org/seven", 7)
    env = {"SYMPHONY_SERVER": addresses(server)[0], "SYMPHONY_TOKEN": people["ann"]}
    assert server.run("run", "ann@x.org/seven", env=env).stdout == "7\n"


def test_only_the_owner_changes_what_is_under_its_name(server, people):
    async def mine(client):
        await client.install(WAITS, "wait@1")

    async def others(client):
        with pytest.raises(AccessDenied):
            await client.uninstall("ops/wait@1")
        with pytest.raises(AccessDenied):
            await client.install(WAITS, "ops/wait@2")

    at(server, people, "ops", mine)
    at(server, people, "ann", others)


def test_what_runs_goes_on_when_its_program_is_uninstalled(server, people):
    async def work(client):
        await client.install(WAITS, "gone@1")
        pid = await client.spawn("ops/gone@1")
        await client.uninstall("gone@1")
        with pytest.raises(NoSuchFile):
            await client.spawn("ops/gone@1")
        (process,) = await client.ps(pid)
        await client.kill(pid)
        return process.program, process.exit

    assert at(server, people, "ops", work) == ("ops/gone@1", None)


def test_a_dependency_that_the_image_lacks_is_told_before_anything_starts(server, people):
    needs = "# /// script\n# dependencies = ['numpy', 'torch>=2']\n# ///\n" + WAITS

    async def work(client):
        for attempt in (client.install(needs, "needs@1"), client.spawn(needs)):
            with pytest.raises(BadProgram, match=r"the program needs torch>=2; the image has numpy \d.*, python 3\."):
                await attempt

    at(server, people, "ops", work)


SOURCES = {
    "a NUL": "x = '\0'\n",
    "a million brackets": "x = " + "[" * MILLION + "\n",
    "a million brackets in the manifest": "# /// script\n# x = " + "[" * MILLION + "\n# ///\n" + WAITS,
    "a manifest that is not closed": "# /// script\n# [tool.symphony]\n# paths = []\n" + WAITS,
    "more than may be": "#" * (4 << 20) + "\n" + WAITS,
}
PARSED_BY_ITSELF = {"a million brackets"}  # what only its own process finds out


@pytest.mark.parametrize("what", SOURCES)
def test_a_hostile_source_ends_with_bad_program_and_others_run_on(server, people, what: str):
    """Past the client's own look at it, as a hostile client would send it. (There are no archives in the registry, and so no zip
    bombs, paths out of them, links or wheels.)"""
    request = registry_pb2.InstallRequest(name="hostile", version="1", source=SOURCES[what], entry="main")

    async def hostile(client):
        if what not in PARSED_BY_ITSELF:
            for attempt in (client._ask(client._registry.Install, request), client.spawn(Program(source=SOURCES[what]))):
                with pytest.raises(BadProgram):
                    await attempt
            return
        await client._ask(client._registry.Install, request)
        for program in ("ops/hostile@1", Program(source=SOURCES[what])):
            status = (await client.wait(await client.spawn(program))).exit
            assert (status.code, status.reason) == (2, "program")
        await client.uninstall("hostile@1")

    async def neighbour(client):
        pid = await client.spawn(WAITS)
        await asyncio.to_thread(at, server, people, "ops", hostile)
        (process,) = await client.ps(pid)
        await client.kill(pid)
        return process.exit

    assert at(server, people, "ann", neighbour) is None


def test_the_client_says_itself_what_does_not_parse(server, people):
    async def work(client):
        for what, why in (("a NUL", r"holds a NUL \(line 1\)"), ("a million brackets", "does not parse: too many nested")):
            with pytest.raises(BadProgram, match=why):
                await client.install(SOURCES[what], "hostile@1")

    at(server, people, "ops", work)


def test_programs_outlive_the_server(fresh_server, program):
    first = fresh_server("--device", "sim")
    assert first.run("install", program("async def main() -> int:\n    return 7\n"), "--name", "seven@1.0").returncode == 0
    assert first.stop() == 0

    again = fresh_server("--device", "sim", "--state-dir", str(first.run_dir / "state"))
    done = again.run("run", "seven")

    assert (done.stdout, done.returncode) == ("7\n", 0)
    assert again.stop() == 0


def test_a_program_that_was_changed_on_the_disk_is_told_and_never_runs(fresh_server, program):
    first = fresh_server("--device", "sim")
    assert first.run("install", program("async def main() -> int:\n    return 7\n"), "--name", "seven@1.0").returncode == 0
    assert first.stop() == 0
    with closing(sqlite3.connect(first.run_dir / "state" / "fs" / "store.db")) as db, db:
        assert db.execute("UPDATE contents SET data = ?", (b"async def main() -> int:\n    return 8\n",)).rowcount == 1

    again = fresh_server("--device", "sim", "--state-dir", str(first.run_dir / "state"))
    done = again.run("run", "seven@1.0")

    assert done.returncode != 0 and "EIO" in done.stderr and "install it again" in done.stderr
    assert "seven@1.0 is damaged on the disk" in (again.run_dir / "serve.log").read_text()
    assert again.stop() == 0
