"""What a program does with names alone: each function is one call."""

import pytest

from tests.unit.lip.canned import Canned, stat
from tests.unit.lip.toy import play
from vllm_symphony import lip
from vllm_symphony.abi import calls as c
from vllm_symphony.abi.types import FsStat, Quota

QUOTA = Quota("me", files=10, used_files=3)
FS = FsStat(16, 1024, 100, 40, 0, 0, 0, 0, 0, 3, 1000, "f00d", QUOTA)
FILES = (stat("/kb/a"), stat("/kb/b", kind="dir"))
DONE, XATTRS, SYNCED, DU = c.Done(), c.XattrsResult({"lang": "en"}), c.SyncResult(2, 4096), c.DuResult(FILES, 1.5, 6)
FOUND = c.FindResult(FILES, 7, ("a fog horn", ""))


@pytest.mark.parametrize(
    ("work", "op", "args", "answer", "value"),
    [
        (lambda: lip.mkdir("/kb"), "mkdir", c.Mkdir("/kb", 0o777, False), DONE, None),
        (lambda: lip.mkdir("/kb/a", 0o700, parents=True), "mkdir", c.Mkdir("/kb/a", 0o700, True), DONE, None),
        (lambda: lip.rmdir("/kb"), "rmdir", c.PathArgs("/kb"), DONE, None),
        (lambda: lip.listdir("/kb"), "listdir", c.Listdir("/kb", False), c.ListResult(FILES), list(FILES)),
        (lambda: lip.listdir(recursive=True), "listdir", c.Listdir("/", True), c.ListResult(()), []),
        (lambda: lip.chmod("/kb", 0o2775), "chmod", c.Chmod(0o2775, None, "/kb"), DONE, None),
        (lambda: lip.chown("/kb", group="staff"), "chown", c.Chown(None, "/kb", None, "staff"), DONE, None),
        (lambda: lip.umask(0o077), "umask", c.Umask(0o077), c.UmaskResult(0o022), 0o022),
        (lambda: lip.umask(), "umask", c.Umask(None), c.UmaskResult(0o077), 0o077),
        (
            lambda: lip.setxattr("/kb/a", "lang", "en", create=True),
            "setxattr", c.Setxattr("lang", "en", None, "/kb/a", True, False), DONE, None,
        ),
        (lambda: lip.getxattr("/kb/a", "lang"), "getxattr", c.Xattr("lang", None, "/kb/a"), XATTRS, "en"),
        (lambda: lip.listxattr("/kb/a"), "listxattr", c.FileArgs(None, "/kb/a"), XATTRS, {"lang": "en"}),
        (lambda: lip.removexattr("/kb/a", "lang"), "removexattr", c.Xattr("lang", None, "/kb/a"), DONE, None),
        (lambda: lip.chattr("/kb", durable="pages"), "chattr", c.Chattr(None, "/kb", "pages", None, None), DONE, None),
        (lambda: lip.pin("/kb/a"), "pin", c.Pin(None, "/kb/a", True), DONE, None),
        (lambda: lip.pin("/kb/a", False), "pin", c.Pin(None, "/kb/a", False), DONE, None),
        (
            lambda: lip.advise("/kb/a", "dontneed", tier="disk", wait=True, timeout_s=5),
            "advise", c.Advise(None, "/kb/a", "dontneed", "disk", True, 5), DONE, None,
        ),
        (lambda: lip.sync(), "sync", c.Sync(None, None, None), SYNCED, SYNCED),
        (lambda: lip.sync("/kb/a", timeout_s=5), "sync", c.Sync(None, "/kb/a", 5), SYNCED, SYNCED),
        (lambda: lip.statfs(), "statfs", c.NoArgs(), c.StatfsResult(FS), FS),
        (lambda: lip.du("/kb"), "du", c.FileArgs(None, "/kb"), DU, DU),
        (lambda: lip.getquota(), "getquota", c.Getquota(""), c.QuotaResult(QUOTA), QUOTA),
        (lambda: lip.find("/kb", text="fog horn", limit=2), "find", c.Find("/kb", text="fog horn", limit=2), FOUND, FOUND),
        (
            lambda: lip.find(
                name="*.kv", owner="me", kind="file", fidelity="exact", xattr={"lang": "e*"}, min_length=1, max_length=9
            ),
            "find", c.Find("/", "*.kv", "me", "file", "exact", {"lang": "e*"}, 1, 9), FOUND, FOUND,
        ),
        (lambda: lip.find(min_age_s=6, max_age_s=9), "find", c.Find(min_age_s=6, max_age_s=9), FOUND, FOUND),
    ],
)  # fmt: skip
def test_a_function_makes_its_call_and_gives_what_matters_of_the_answer(work, op, args, answer, value):
    toy = Canned(**{op: answer})

    assert play(work, toy) == value

    assert toy.asked(op) == [args]


def test_the_text_of_a_file_is_its_tokens_and_below_proc_what_the_kernel_says():
    toy = Canned()
    toy.machine.names["/kb/a"] = toy.machine.new(list(b"fog"))
    proc = Canned(read=c.ReadResult(b"", b"", 0, text='{"pid": 1}'))

    assert play(lambda: lip.cat("/kb/a"), toy) == "fog"
    assert play(lambda: lip.cat("/proc/self/status"), proc) == '{"pid": 1}'


def test_errors_are_their_classes():
    toy = Canned(rmdir=lip.NotEmpty("/kb holds 3 files"))

    with pytest.raises(lip.NotEmpty, match="holds 3 files"):
        play(lambda: lip.rmdir("/kb"), toy)


def test_a_copy_is_a_fork_with_the_rights_of_the_original_and_both_are_closed():
    toy = Canned(stat=c.StatResult(stat("/kb/a", mode=0o640)), chmod=DONE)
    toy.machine.names["/kb/a"] = toy.machine.new([1, 2])

    play(lambda: lip.copy("/kb/a", "/kb/b"), toy)

    assert toy.machine.names["/kb/b"].tokens == [1, 2]
    assert toy.asked("chmod") == [c.Chmod(0o640, toy.asked("link")[0].fd)]
    assert toy.left_open == set()
