"""The commands of the file system against a served simulator, as its owner and as a principal without scopes."""

import io
import json
import signal
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from select import select
from types import SimpleNamespace

import pytest

from vllm_symphony.cli.main import main

HOLDS = """
from vllm_symphony import lip

async def main():
    async with lip.open(text="abc"):
        print("open", flush=True)
        await lip.sleep(600)
"""


@pytest.fixture(scope="module")
def machine(fresh_server, tmp_path_factory):
    """A server with all tiers and a state directory; `ok` runs a command that must succeed, `bob` is a principal without scopes."""
    server = fresh_server("--device", "sim", "--host-cache", "16M", "--disk-cache", "16M")
    token = server.run("token", "add", "bob", "--principal", "bob", "--group", "staff").stdout
    file = tmp_path_factory.mktemp("bob") / "token"
    file.write_text(token)
    file.chmod(0o600)

    def run(*words):
        """In this process, which saves a second for each."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    def ok(*words):
        done = run(*words)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def bob(*words):
        return run(*words, "--token-file", str(file))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYMPHONY_SOCKET", str(server.run_dir / "symphony.sock"))
        yield SimpleNamespace(server=server, run=run, ok=ok, bob=bob, shown=lambda *words: json.loads(ok(*words, "--json")))


@pytest.fixture
def kb(machine):
    """A directory with two files in it; it is gone afterwards."""
    machine.ok("mkdir", "-p", "/kb/law")
    machine.ok("put", "--compute", "/kb/book.kv", "In fog the horn sounds. " * 4)
    machine.ok("put", "/kb/law/eu.kv", "The lamp is lit at dusk.")
    yield machine
    machine.ok("rm", "-rf", "/kb")


def test_a_directory_is_listed_short_long_and_all_below(kb):
    assert kb.ok("ls", "/kb") == "book.kv\nlaw\n"
    book, law = kb.ok("ls", "-l", "/kb/").splitlines()
    assert book.split()[0] == "-rw-r--r--" and book.split()[3:] == ["96", "tokens", "6", "pages", "gpu", "exact", "book.kv"]
    assert law.startswith("drwxr-xr-x") and law.endswith("law")
    assert kb.ok("ls", "-R", "/kb") == "/kb:\nbook.kv\nlaw\n\n/kb/law:\neu.kv\n"
    assert kb.ok("ls", "-d", "/kb", "/kb/book.kv") == "/kb\n/kb/book.kv\n"
    assert [f["path"] for f in kb.shown("ls", "-R", "/kb")] == ["/kb/book.kv", "/kb/law", "/kb/law/eu.kv"]
    assert {"home", "kb", "proc", "tmp"} <= set(kb.ok("ls").split())


def test_stat_and_cat_show_all_of_a_file(kb):
    kb.ok("setfattr", "-n", "language", "-v", "en", "/kb/book.kv")

    stat = kb.shown("stat", "/kb/book.kv")

    assert (stat["length"], stat["num_pages"], stat["durable"], stat["xattrs"]) == (96, 6, "tokens", {"language": "en"})
    assert "-rw-r--r-- (0644)" in kb.ok("stat", "/kb/book.kv") and "durable" in kb.ok("stat", "/kb")
    assert kb.ok("cat", "/kb/law/eu.kv") == "The lamp is lit at dusk.\n"
    assert kb.ok("cat", "/kb/law/eu.kv", "--tokens", "--offset", "4", "--count", "2") == "4\t108\n5\t97\n"
    assert kb.run("cat", "/kb").stderr.startswith("symphony: EISDIR")
    assert kb.run("cat", "/kb/book.kv/x").stderr.startswith("symphony: ENOTDIR")


def test_put_reads_words_files_and_stdin_and_replaces_only_when_told(kb, tmp_path):
    (tmp_path / "text").write_text("from a file")

    assert kb.ok("put", "/kb/a.kv", "words", "--mode", "600") == "/kb/a.kv: 5 tokens\n"
    refused = kb.run("put", "/kb/a.kv", "others")
    kb.ok("put", "--replace", "/kb/a.kv", f"@{tmp_path / 'text'}")
    with (tmp_path / "text").open() as text:
        assert kb.server.run("put", "/kb/b.kv", stdin=text).returncode == 0

    assert (refused.returncode, refused.stderr) == (1, "symphony: EEXIST: the name is taken: /kb/a.kv\n")
    assert kb.ok("cat", "/kb/a.kv") == kb.ok("cat", "/kb/b.kv") == "from a file\n"
    assert kb.run("put", "/nowhere/a.kv", "x").stderr.startswith("symphony: ENOENT")


def test_a_copy_takes_no_page_until_one_is_written(kb):
    kb.ok("cp", "/kb/book.kv", "/kb/law")

    copy = kb.shown("stat", "/kb/law/book.kv")
    assert copy["charge"] == kb.shown("stat", "/kb/book.kv")["charge"] == 3.0
    assert copy["mode"] == 0o644
    kb.ok("cp", "/kb/book.kv", "/kb/law/eu.kv", "/home")
    assert {"book.kv", "eu.kv"} <= set(kb.ok("ls", "/home").split())
    kb.ok("rm", "/home/book.kv", "/home/eu.kv")


def test_what_the_name_holds_is_replaced_unless_that_is_forbidden(kb):
    assert "EEXIST" in kb.run("cp", "-n", "/kb/book.kv", "/kb/law/eu.kv").stderr
    assert "EEXIST" in kb.run("mv", "-n", "/kb/book.kv", "/kb/law/eu.kv").stderr
    assert "EEXIST" in kb.run("ln", "/kb/book.kv", "/kb/law/eu.kv").stderr
    kb.ok("ln", "-f", "/kb/book.kv", "/kb/law/eu.kv")
    assert kb.shown("stat", "/kb/law/eu.kv")["nlink"] == 2
    kb.ok("mv", "/kb/law/eu.kv", "/kb/law/moved.kv")
    assert kb.ok("ls", "/kb/law") == "moved.kv\n"


def test_one_that_fails_is_told_and_the_others_are_gone_on_with(kb):
    done = kb.run("rm", "/kb/none", "/kb/book.kv", "/kb/law", "--json")

    assert done.returncode == 1
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["ENOENT", "EISDIR"]
    assert json.loads(done.stdout) == ["/kb/book.kv"]
    both = kb.run("cp", "/kb/law/eu.kv", "/kb/none", "/kb/file-not-there")
    assert both.returncode == 2 and "is no directory" in both.stderr
    assert "ENOTEMPTY" in kb.run("rmdir", "/kb").stderr
    assert kb.run("rmdir", "/kb/law/eu.kv").stderr.startswith("symphony: ENOTDIR")
    assert "EEXIST" in kb.run("mkdir", "/kb/law").stderr
    kb.ok("mkdir", "-p", "/kb/law")


def test_rights_are_set_and_hold_for_others(kb):
    kb.ok("chmod", "-R", "go=", "/kb")
    assert kb.shown("stat", "/kb/law/eu.kv")["mode"] == 0o600
    assert kb.bob("cat", "/kb/book.kv").stderr.startswith("symphony: EACCES")
    kb.ok("chmod", "a+rX", "/kb")
    kb.ok("chmod", "g+r", "/kb/book.kv")
    kb.ok("chown", ":staff", "/kb/book.kv")

    assert kb.bob("cat", "/kb/book.kv").returncode == 0
    assert kb.bob("ls", "/kb").stdout == "book.kv\n"
    assert kb.bob("find", "/kb", "--text", "lamp").stdout == ""
    assert kb.bob("put", "/kb/bob.kv", "x").stderr.startswith("symphony: EACCES")
    assert kb.bob("chmod", "666", "/kb/book.kv").stderr.startswith("symphony: EPERM")
    assert kb.bob("chown", "bob", "/kb/book.kv").stderr.startswith("symphony: EPERM")
    assert kb.bob("rm", "/kb/book.kv").stderr.startswith("symphony: EACCES")
    assert kb.bob("cp", "/kb/book.kv", "/home/bob/mine.kv").returncode == 0
    assert kb.bob("rm", "/home/bob/mine.kv").returncode == 0


def test_attributes_are_set_shown_and_taken_away(kb):
    kb.ok("setfattr", "-n", "source", "-v", "3rd edition", "/kb/book.kv", "/kb/law")

    assert kb.ok("getfattr", "/kb/book.kv") == "source=3rd edition\n"
    assert kb.ok("getfattr", "-n", "source", "/kb/law") == "3rd edition\n"
    assert kb.shown("getfattr", "/kb/book.kv", "/kb/law") == {
        path: {"source": "3rd edition"} for path in ("/kb/book.kv", "/kb/law")
    }
    kb.ok("setfattr", "-x", "source", "/kb/book.kv")
    assert kb.run("getfattr", "-n", "source", "/kb/book.kv").stderr.startswith("symphony: ENODATA")
    assert kb.run("setfattr", "-x", "source", "/kb/book.kv").stderr.startswith("symphony: ENODATA")


def test_files_are_found_by_what_they_are_and_what_they_say(kb):
    kb.ok("setfattr", "-n", "language", "-v", "en", "/kb/law/eu.kv")

    assert kb.ok("find", "/kb") == "/kb/book.kv\n/kb/law\n/kb/law/eu.kv\n"
    assert kb.ok("find", "/kb", "--name", "*.kv", "--min-tokens", "50") == "/kb/book.kv\n"
    assert kb.ok("find", "/kb", "--xattr", "language=e*") == "/kb/law/eu.kv\n"
    assert kb.ok("find", "/kb", "--type", "d") == "/kb/law\n"
    assert kb.ok("find", "/kb", "--older", "1h") == kb.ok("find", "/kb", "--lineage", "pruned") == ""
    path, snippet = kb.ok("find", "/kb", "--text", "horn").splitlines()
    assert path == "/kb/book.kv" and "[horn]" in snippet
    assert kb.shown("find", "/kb", "--limit", "1")["total"] == 3
    assert "2 more match" in kb.run("find", "/kb", "--limit", "1").stderr
    assert kb.run("find", "/kb", "--text", '"').stderr.startswith("symphony: EINVAL")
    assert kb.run("find", "/nowhere").stderr.startswith("symphony: ENOENT")
    assert kb.ok("find", "/kb", "--name", "book.kv", "-l").startswith("-rw-r--r--")


def test_room_is_shown_and_limited(kb):
    assert [line.split()[0] for line in kb.ok("df").splitlines()] == ["TIER", "gpu", "host", "disk", "files", "a"]
    assert kb.shown("df")["host_bytes"] == 16 << 20
    total = kb.ok("du", "-s", "/kb").splitlines()[1].split()
    assert total == ["6", "120", "/kb"]
    assert [line.split()[-1] for line in kb.ok("du", "-a", "/kb").splitlines()[1:]] == [
        "/kb/book.kv",
        "/kb/law/eu.kv",
        "/kb/law",
        "/kb",
    ]
    kb.ok("quota", "bob", "--files", "1", "--disk", "1M")
    assert kb.shown("quota", "bob")["files"] == 1
    assert [kb.bob("put", "/tmp/1.kv", "x").stderr[10:16], kb.bob("put", "/tmp/2.kv", "x").stderr[10:16]].count("EDQUOT") >= 1
    assert kb.bob("quota", "ann").stderr.startswith("symphony: EPERM")
    assert kb.bob("quota", "bob", "--files", "9").stderr.startswith("symphony: EPERM")
    kb.ok("quota", "bob", "--files", "none", "--disk", "none")
    kb.bob("rm", "-f", "/tmp/1.kv", "/tmp/2.kv")


def test_a_lock_is_held_while_the_command_runs(kb):
    assert kb.server.run("lock", "/kb/book.kv", "--", "sh", "-c", "echo locked; exit 7").stdout == "locked\n"
    assert kb.server.run("lock", "/kb/book.kv", "--", "sh", "-c", "exit 7").returncode == 7
    holder = kb.server.start("lock", "/kb/book.kv", "--", "sh", "-c", "echo held; exec sleep 600")
    assert holder.stdout.readline() == "held\n"

    refused = kb.run("lock", "-n", "/kb/book.kv", "--", "echo", "mine")
    late = kb.run("lock", "--timeout", "1s", "--shared", "/kb/book.kv", "--", "echo", "mine")
    holder.send_signal(signal.SIGTERM)
    holder.communicate(timeout=60)

    assert holder.returncode == 128 + signal.SIGTERM
    assert (refused.returncode, refused.stderr[:16]) == (1, "symphony: EAGAIN")
    assert (late.returncode, late.stderr[:19]) == (1, "symphony: ETIMEDOUT")
    assert kb.run("lock", "/kb/none", "--", "true").stderr.startswith("symphony: ENOENT")
    assert kb.run("lock", "/kb/book.kv", "--", "no-such-command").returncode == 127


def test_watch_tells_what_happens(kb):
    watcher = kb.server.start("watch", "/kb", "--json")
    number = 0
    while not select([watcher.stdout], [], [], 0.2)[0]:  # until it watches
        kb.ok("setfattr", "-n", "n", "-v", str(number := number + 1), "/kb/book.kv")
    seen = [json.loads(watcher.stdout.readline())["kind"]]
    kb.ok("mv", "/kb/law/eu.kv", "/kb/law/us.kv")
    while "move" not in seen:
        moved = json.loads(watcher.stdout.readline())
        seen.append(moved["kind"])
    watcher.send_signal(signal.SIGINT)
    watcher.communicate(timeout=60)

    assert (moved["path"], moved["new_path"]) == ("/kb/law/eu.kv", "/kb/law/us.kv")
    assert watcher.returncode == 130
    assert kb.run("watch", "/nowhere").stderr.startswith("symphony: ENOENT")


def test_how_long_files_are_kept_is_said_and_shown(kb):
    kb.ok("chattr", "--durable", "pages", "--ttl", "1h", "/kb/law")
    kb.ok("chattr", "--expires", "2h", "/kb/book.kv")
    kb.ok("put", "/kb/law/new.kv", "x")

    assert (kb.shown("stat", "/kb/law")["durable"], kb.shown("stat", "/kb/law")["ttl_s"]) == ("pages", 3600)
    assert kb.shown("stat", "/kb/law/new.kv")["expires_ns"] < kb.shown("stat", "/kb/book.kv")["expires_ns"]
    kb.ok("chattr", "--expires", "never", "/kb/book.kv")
    assert kb.shown("stat", "/kb/book.kv")["expires_ns"] is None
    assert kb.run("chattr", "--ttl", "1h", "/kb/book.kv").stderr.startswith("symphony: EINVAL")
    assert kb.run("chattr", "--expires", "1h", "/kb").stderr.startswith("symphony: EINVAL")
    assert kb.bob("chattr", "--ttl", "1h", "/kb").stderr.startswith("symphony: EPERM")


def test_a_synced_file_is_on_disk_whole_and_exported_and_imported(kb, tmp_path):
    kb.ok("chattr", "--durable", "pages", "/kb")

    assert kb.shown("sync", "/kb/book.kv") == {"num_files": 1, "num_bytes": 6 * kb.shown("df")["page_bytes"]}
    assert kb.shown("stat", "/kb/book.kv")["disk_pages"] == 6
    assert kb.shown("fsck", "/kb")["findings"] == []
    assert kb.shown("gc", "-n") == {"removed": [], "num_bytes": 0}
    pack = tmp_path / "book.pack"
    assert kb.shown("export", "/kb/book.kv", str(pack))["num_bytes"] == pack.stat().st_size
    assert "EEXIST" in kb.run("export", "/kb/book.kv", str(pack)).stderr
    imported = kb.shown("import", str(pack), "/kb/again.kv")
    assert imported["trusted"] and imported["file"]["length"] == 96
    assert kb.ok("cat", "/kb/again.kv") == kb.ok("cat", "/kb/book.kv")
    assert kb.run("import", str(pack), "/kb/again.kv").stderr.startswith("symphony: EEXIST")
    pack.write_bytes(b"no pack at all")
    assert kb.run("import", str(pack), "/kb/other.kv").stderr.startswith("symphony: EINVAL")
    assert kb.run("import", str(tmp_path / "none"), "/kb/other.kv").stderr.startswith("symphony: EACCES")
    assert kb.bob("import", "--trust", str(pack), "/tmp/x.kv").stderr.startswith("symphony: EPERM")
    assert kb.run("sync", "/tmp").returncode == 1


def test_pages_are_pinned_and_moved_as_advised(kb):
    kb.ok("pin", "/kb/book.kv")
    assert kb.shown("stat", "/kb/book.kv")["pinned"]
    kb.ok("unpin", "/kb/book.kv")

    kb.ok("advise", "dontneed", "--tier", "host", "--until-done", "/kb/book.kv")
    away = kb.shown("stat", "/kb/book.kv")
    kb.ok("advise", "willneed", "--until-done", "/kb/book.kv")
    back = kb.shown("stat", "/kb/book.kv")

    assert (away["device_pages"], away["host_pages"]) == (0, 6)
    assert back["device_pages"] == 6
    assert kb.run("pin", "/kb/none").stderr.startswith("symphony: ENOENT")
    assert kb.run("advise", "dontneed", "/kb").stderr.startswith("symphony: EISDIR")


def test_proc_shows_processes_and_changes_nothing(machine, program):
    holder = machine.server.start("run", program(HOLDS))
    assert holder.stdout.readline() == "open\n"
    pid = json.loads(machine.ok("ps", "--json"))[0]["pid"]

    status = json.loads(machine.ok("cat", f"/proc/{pid}/status"))
    fds = machine.ok("ls", f"/proc/{pid}/fd").split()

    assert status["pid"] == pid and status["num_files"] == 1
    assert machine.ok("cat", f"/proc/{pid}/fd/{fds[0]}") == "abc\n"
    assert machine.run("put", f"/proc/{pid}/x", "x").stderr.startswith("symphony: EROFS")
    assert machine.run("rm", f"/proc/{pid}/status").stderr.startswith("symphony: EROFS")
    assert machine.bob("ls", f"/proc/{pid}").returncode == 1
    machine.ok("kill", str(pid))
    holder.communicate(timeout=60)


def test_what_is_kept_is_there_after_a_restart_and_what_is_not_is_gone(fresh_server, tmp_path):
    directories = ("--device", "sim", "--state-dir", str(tmp_path / "state"))
    first = fresh_server(*directories)
    for words in (
        ("mkdir", "--durable", "pages", "-m", "700", "/kb"),
        ("put", "--compute", "--mode", "640", "/kb/book.kv", "In fog the horn sounds."),
        ("setfattr", "-n", "language", "-v", "en", "/kb/book.kv"),
        ("put", "/tmp/scratch.kv", "gone"),
    ):
        done = first.run(*words)
        assert done.returncode == 0, done
    before = json.loads(first.run("stat", "/kb/book.kv", "--json").stdout)
    assert first.stop() == 0

    second = fresh_server(*directories)
    after = json.loads(second.run("stat", "/kb/book.kv", "--json").stdout)

    same = ("ino", "owner", "mode", "length", "frontier", "created_ns", "durable", "xattrs")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert (after["disk_pages"], after["stale"]) == (2, False)
    assert second.run("cat", "/kb/book.kv").stdout == "In fog the horn sounds.\n"
    assert second.run("ls", "/tmp").stdout == ""
    assert "drwx------" in second.run("ls", "-ld", "/kb").stdout
    refused = second.run("serve", *directories, "--run-dir", str(tmp_path / "other"))
    assert refused.returncode != 0 and "EEXIST" in refused.stderr
    assert second.stop() == 0
