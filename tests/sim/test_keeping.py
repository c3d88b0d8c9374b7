"""sync, gc, fsck, export and import on whole machines: what they refuse, find and carry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_symphony.abi import calls
from vllm_symphony.abi.types import Credentials, OpenFlags, Span, pack_tokens, unpack_tokens
from vllm_symphony.errors import FileExists, InvalidArgument, NoSuchFile, NotOwner, SymphonyError
from vllm_symphony.kernel.syscall import keep
from vllm_symphony.testing import Machine, run_program

NEW = OpenFlags.CREAT | OpenFlags.RDWR
TOKENS = list(range(40, 70))


@pytest.fixture
def switched_on(tmp_path: Path):
    """Makes machines; each has a state directory of its own, and /kb, whose files are kept with their pages."""
    made: list[Machine] = []

    def make(name: str = "a", **options: Any) -> Machine:
        m = Machine(seed=3, page_size=4, max_positions=200, state_dir=tmp_path / name, **options)
        made.append(m)
        m.settle()
        m.call("mkdir", calls.Mkdir("/kb", parents=True))
        m.call("chattr", calls.Chattr(path="/kb", durable="pages"))
        return m

    yield make
    for m in made:
        m.close()


def put(m: Machine, path: str, tokens: list[int] = TOKENS) -> int:
    """A file, computed; its fd."""
    fd = m.call("open", calls.Open(path, pack_tokens(tokens), NEW)).fd
    m.call("forward", calls.Forward(fd, b""))
    return int(fd)


def edited(m: Machine, path: str) -> None:
    fd = put(m, "/tmp/source")
    part = m.call("extract", calls.Extract(fd, (Span(0, 4), Span(10, 30)), "compact")).fd
    m.call("link", calls.Link(part, path))
    m.call("forward", calls.Forward(part, b""))


def carry(here: Machine, there: Machine, path: str, **options: Any) -> Any:
    """Export a file of one machine and import it at another."""
    name = here.call("export", calls.Export(path)).spool
    assert here.storage.directory is not None and there.storage.directory is not None
    (there.storage.directory.spool / "in.kv").write_bytes((here.storage.directory.spool / name).read_bytes())
    return there.call("import", calls.Import("/kb/copy", "in.kv", **options))


def kinds(result: Any) -> list[tuple[str, str]]:
    return [(finding.kind, finding.path) for finding in result]


def test_a_file_that_is_kept_nowhere_cannot_be_synced(switched_on: Callable[..., Machine]):
    m = switched_on()
    anonymous = m.call("open", calls.Open(None, pack_tokens([40]), OpenFlags.RDWR)).fd
    put(m, "/tmp/f")

    for args in (calls.Sync(fd=anonymous), calls.Sync(path="/tmp/f")):
        with pytest.raises(InvalidArgument, match="kept nowhere"):
            m.call("sync", args)


def test_a_file_comes_back_to_the_server_that_signed_it_with_its_pages(switched_on: Callable[..., Machine]):
    m = switched_on()
    put(m, "/kb/book")
    m.call("setxattr", calls.Setxattr("user.title", "Book", path="/kb/book"))

    result = carry(m, m, "/kb/book")

    assert result.trusted and result.file.frontier == len(TOKENS) and result.file.path == "/kb/copy"
    assert m.call("getxattr", calls.Xattr("user.title", path="/kb/copy")).attributes == {"user.title": "Book"}
    fd = m.call("open", calls.Open("/kb/copy")).fd
    m.call("forward", calls.Forward(fd, b""))
    assert m.core.counters()["pages_loaded"] >= 7


@pytest.mark.parametrize(("trust", "frontier"), [(False, 0), (True, len(TOKENS))])
def test_a_strangers_pages_are_computed_again_unless_an_admin_trusts_them(
    switched_on: Callable[..., Machine], trust: bool, frontier: int
):
    here, there = switched_on("a"), switched_on("b")
    put(here, "/kb/book")

    result = carry(here, there, "/kb/book", trust=trust)

    assert (result.trusted, result.file.frontier) == (trust, frontier)
    assert unpack_tokens(there.call("read", calls.Read(path="/kb/copy")).tokens) == TOKENS


def test_a_strangers_edited_file_is_stale_its_own_comes_back(switched_on: Callable[..., Machine]):
    here, there = switched_on("a"), switched_on("b")
    edited(here, "/kb/part")

    assert not carry(here, here, "/kb/part").file.stale
    assert carry(here, there, "/kb/part").file.stale


def test_an_import_whose_name_is_taken_away_while_it_is_rebuilt_says_so_and_harms_nobody(
    switched_on: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
):
    m = switched_on()
    edited(m, "/kb/part")
    name = m.call("export", calls.Export("/kb/part", pages=False)).spool
    whole = keep.rebuild

    def unlinked_meanwhile(machine: Any, inode: Any, on_done: Any) -> Any:
        def done(machine: Any, error: Any, now_ns: int) -> None:
            (directory, last), *_ = inode.names
            machine.files.unbind(directory, last, now_ns)
            on_done(machine, error, now_ns)

        return whole(machine, inode, done)

    monkeypatch.setattr(keep, "rebuild", unlinked_meanwhile)
    with pytest.raises(NoSuchFile, match="/kb/copy"):
        m.call("import", calls.Import("/kb/copy", name))

    assert [r.result for r in m.kernel.log.since(1) if r.op == "import"] == ["ENOENT"]
    m.kernel.check()


def test_only_an_admin_trusts(switched_on: Callable[..., Machine]):
    m = switched_on()
    eve = m.kernel.connect(Credentials("eve", scopes=("run",)), "client", m.now_ns)
    m.kernel.call(eve, 1, 0, "import", calls.Import("/tmp/x", "in.kv", trust=True), m.now_ns)

    (answer,) = [effect for effect in m.kernel.effects if getattr(effect, "call_id", 0) == 1]
    assert isinstance(answer.error, NotOwner)
    m.kernel.disconnected(eve, m.now_ns)
    m.kernel.effects.clear()


def test_an_import_that_is_refused_makes_no_file(switched_on: Callable[..., Machine]):
    m = switched_on()
    put(m, "/kb/copy")
    for name, kind in (("/kb/copy", FileExists), ("/kb/new", NoSuchFile), ("/none/new", NoSuchFile)):
        with pytest.raises(kind):
            m.call("import", calls.Import(name, "not-there.kv"))

    assert [file.path for file in m.call("list", calls.List("/")).files] == ["/kb/copy"]


def test_gc_says_what_has_expired_and_what_nobody_refers_to(switched_on: Callable[..., Machine]):
    m = switched_on()
    put(m, "/tmp/old")
    put(m, "/tmp/gone")
    m.call("export", calls.Export("/tmp/gone"))  # its pages are saved for it, and no record keeps them
    m.call("chattr", calls.Chattr(path="/tmp/old", expires_s=10.0))
    m.now_ns += 20_000_000_000

    planned = m.call("gc", calls.Gc(dry_run=True))

    assert [finding.kind for finding in planned.removed] == ["expired", "orphan"] and planned.num_bytes > 0
    assert m.call("stat", calls.Stat(path="/tmp/old")).file.length == len(TOKENS)
    assert m.call("gc", calls.Gc()).removed == planned.removed
    with pytest.raises(NoSuchFile):
        m.call("stat", calls.Stat(path="/tmp/old"))
    assert m.call("gc", calls.Gc()).removed == ()


def test_a_file_that_is_kept_nowhere_names_no_pages_that_gc_removes(switched_on: Callable[..., Machine]):
    m = switched_on()
    edited(m, "/tmp/part")
    m.call("export", calls.Export("/tmp/part"))

    assert kinds(m.call("gc", calls.Gc()).removed) == [("orphan", "")]
    assert m.call("fsck", calls.Fsck("/tmp")).findings == ()
    assert m.call("export", calls.Export("/tmp/part")).num_bytes > 0, "its pages are saved again"
    m.call("rename", calls.Rename("/tmp/part", "/kb/part"))
    m.call("sync", calls.Sync())
    assert m.call("gc", calls.Gc()).removed == ()
    assert m.call("fsck", calls.Fsck("/")).findings == ()


def test_above_the_high_water_mark_pages_of_the_coldest_exact_files_are_given_up(
    switched_on: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
):
    m = switched_on()
    for name in ("cold", "warm"):
        put(m, f"/kb/{name}")
    edited(m, "/kb/part")
    m.call("sync", calls.Sync())
    monkeypatch.setattr(m.storage, "_excess_bytes", lambda: 1)

    assert kinds(m.call("gc", calls.Gc(dry_run=True)).removed) == [("cold", "/kb/cold")]
    assert kinds(m.call("gc", calls.Gc()).removed) == [("cold", "/kb/cold")]
    assert kinds(m.call("gc", calls.Gc()).removed) == [("cold", "/kb/warm")]
    assert m.call("gc", calls.Gc()).removed == (), "edited files keep theirs"


def test_fsck_finds_what_is_missing_and_an_exact_file_goes_on(switched_on: Callable[..., Machine]):
    m = switched_on()
    fd = put(m, "/kb/book")
    m.call("sync", calls.Sync())
    assert m.storage.directory is not None
    for path in m.storage.directory.pages.iterdir():
        path.unlink()

    result = m.call("fsck", calls.Fsck("/kb"))

    assert kinds(result.findings) == [("missing", "/kb/book")] and (result.num_files, result.num_pages) == (1, 8)
    assert m.call("fsck", calls.Fsck("/kb")).findings == ()
    m.call("forward", calls.Forward(fd, b""))


def test_keeping_is_no_business_of_programs(switched_on: Callable[..., Machine]):
    async def main() -> list[str]:
        from vllm_symphony.lip import transport

        heard = []
        for op, args in (
            ("gc", calls.Gc()),
            ("fsck", calls.Fsck()),
            ("export", calls.Export("/x")),
            ("import", calls.Import("/x", "y")),
        ):
            try:
                await transport.call(op, args)
            except SymphonyError as error:
                heard.append(error.reason)
        return heard

    assert run_program(main, machine=switched_on()) == ["EPERM"] * 4
