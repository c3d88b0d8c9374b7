"""Installed programs: names, versions, rights, limits, and what a spawn makes of them."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from tests.unit.kernel.world import ADMIN, ME, OTHER, World
from vllm_symphony.abi.record import ProgramRecord, Restored
from vllm_symphony.abi.types import Credentials, ProgramInfo, ResourceLimits
from vllm_symphony.errors import (
    AccessDenied,
    BadProgram,
    DataCorrupt,
    FileExists,
    InvalidArgument,
    NameTooLong,
    NoSuchFile,
    NotOwner,
    NotSupported,
    QuotaExceeded,
    SymphonyError,
)
from vllm_symphony.kernel.effect import Launch, StoreWrite

SOURCE = "async def main(task: str): ...\n"
MODULE = b"\0asm\x01\0\0\0"
MANIFEST = """# /// script
# dependencies = ["numpy>=1.24"]
# [tool.symphony]
# description = "Sorts tickets."
# tools = ["web.*"]
# paths = ["/kb"]
# limits = { tokens = 100 }
# ///
"""


@pytest.fixture
def w() -> World:
    world = World()
    world.kernel.image = {"python": "3.11.9", "numpy": "2.2.6"}
    return world


def install(w: World, name: str = "triage", version: str = "1.0", **args: Any) -> ProgramInfo:
    by = args.pop("by", None)
    args.setdefault("source", "" if "code" in args else SOURCE)
    info: ProgramInfo = w("install", by=by, name=name, version=version, **args).program
    return info


def names(w: World, pattern: str = "", by: int | None = None) -> list[str]:
    return [f"{info.name}@{info.version}" for info in w("programs", by=by, pattern=pattern).programs]


def client(w: World, cred: Credentials) -> int:
    return w.kernel.connect(cred, "client", w.now_ns)


def launched(w: World) -> Launch:
    return w.sent(Launch)[-1]


# ---- installing


def test_what_is_installed_is_described_by_its_manifest(w: World):
    source = MANIFEST + SOURCE

    info = install(w, source=source, schema='{"type": "object"}')

    assert info == ProgramInfo(
        name="me/triage", version="1.0", owner="me", sha256=sha256(source.encode()).hexdigest(), size=len(source), runtime="python",
        entry="main", description="Sorts tickets.", schema='{"type": "object"}', created_ns=w.kernel.offset_ns, group="me",
        tools=("web.*",), paths=("/kb",), dependencies=("numpy>=1.24",), limits=ResourceLimits(tokens=100),
    )  # fmt: skip
    found = w("program", program="triage")
    assert (found.program, found.source, found.code) == (info, source, b"")
    w.check()


def test_a_module_is_installed_with_what_the_call_says_of_it(w: World):
    info = install(w, code=MODULE, entry="run", description="A filter.")

    assert (info.runtime, info.entry, info.description, info.tools, info.size) == ("wasm", "run", "A filter.", None, len(MODULE))
    assert w("program", program="triage").code == MODULE


def test_a_version_is_never_changed(w: World):
    first = install(w)

    assert install(w) == first, "the same again"
    with pytest.raises(FileExists, match=r"me/triage@1\.0 is there with other content"):
        install(w, source=SOURCE + "# new")
    with pytest.raises(FileExists):
        install(w, version="1.0.0", source=SOURCE + "# 1.0.0 is 1.0")
    with pytest.raises(FileExists):
        install(w, entry="other")
    with pytest.raises(FileExists):
        install(w, code=MODULE)
    assert names(w) == ["me/triage@1.0"]


def test_the_same_content_again_may_have_another_mode(w: World):
    install(w, mode=0o755)

    assert install(w, mode=0o700).mode == 0o700
    assert names(w, by=client(w, OTHER)) == []
    w.check()


def test_equal_contents_are_kept_once(w: World):
    for version in ("1.0", "1.1"):
        install(w, version=version)
    install(w, "other")
    assert len(w.kernel.registry.contents) == 1

    for program in ("triage@1.0", "other@1.0"):
        w("uninstall", program=program)
        w.check()

    assert w("program", program="triage@1.1").source == SOURCE
    w("uninstall", program="triage@1.1")
    assert not w.kernel.registry.contents and not len(w.kernel.registry)
    w.check()


@pytest.mark.parametrize(
    ("args", "error", "why"),
    [
        ({"name": "Triage"}, InvalidArgument, "small letters"),
        ({"name": "triage@1.0"}, InvalidArgument, "name and version apart"),
        ({"name": "x" * 65}, NameTooLong, "65 characters, the most is 64"),
        ({"name": "n" * 1_000_000}, NameTooLong, "the most is 64"),
        ({"name": "other/triage"}, AccessDenied, "under the name of other"),
        ({"version": ""}, InvalidArgument, "no version"),
        ({"version": "latest"}, InvalidArgument, "no version"),
        ({"version": "9" * 1_000_000}, InvalidArgument, "no version"),
        ({"source": ""}, InvalidArgument, "either source or code"),
        ({"source": SOURCE, "code": MODULE}, InvalidArgument, "either source or code"),
        ({"code": b"ELF"}, BadProgram, "no WebAssembly module"),
        ({"mode": 0o1755}, InvalidArgument, "mode must be"),
        ({"entry": "a b"}, InvalidArgument, "entry must be"),
        ({"entry": "e" * 300}, InvalidArgument, "entry must be"),
        ({"description": "x" * 5000}, InvalidArgument, "description has 5000"),
        ({"schema": "[]"}, InvalidArgument, "must be a JSON object"),
        ({"schema": "{"}, InvalidArgument, "no JSON"),
        ({"schema": "[" * 60_000}, InvalidArgument, "no JSON"),
        ({"schema": " " * 70_000}, InvalidArgument, "schema has 70000"),
        ({"source": "x = '\0'"}, BadProgram, r"NUL \(line 1\)"),
        ({"source": "x = '\ud800'"}, BadProgram, "no valid unicode"),
        ({"source": "#" * (4 << 20) + "#"}, BadProgram, "4194305 bytes, the most is 4194304"),
        ({"source": "# /// script\n# a = " + "[" * 1_000_000 + "\n# ///\n"}, BadProgram, "most is 8192"),
        ({"source": "# /// script\n# dependencies = ['pandas', 'numpy>=9']\n# ///\n"}, BadProgram, r"needs pandas, numpy>=9; the"),
        ({"source": "# /// script\n# requires-python = '>=3.12'\n# ///\n"}, BadProgram, "needs Python >=3.12"),
        ({"source": '__abi__ = "2.0"\n'}, NotSupported, r"written for ABI 2\.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_installed_says_why_and_leaves_nothing(w: World, args: dict[str, Any], error: type[SymphonyError], why: str):
    with pytest.raises(error, match=why):
        install(w, **args)

    assert not len(w.kernel.registry)
    w.check()


def test_a_million_brackets_in_the_code_are_for_the_programs_own_process(w: World):
    """The kernel never parses a program: its process does, and ends with BadProgram."""
    assert install(w, source="x = " + "[" * 1_000_000).size == 1_000_004


def test_a_missing_dependency_is_told_beside_what_the_image_has(w: World):
    with pytest.raises(BadProgram) as caught:
        install(w, source="# /// script\n# dependencies = ['Pandas>=2', 'numpy']\n# ///\n")

    assert "needs Pandas>=2; the image has numpy 2.2.6, python 3.11.9" in caught.value.message
    assert caught.value.values["missing"] == "Pandas>=2"


def test_what_needs_nothing_runs_in_an_image_that_has_nothing():
    w = World()
    install(w)

    with pytest.raises(BadProgram, match="the image has the standard library only"):
        install(w, version="2", source="# /// script\n# dependencies = ['numpy']\n# ///\n")


def test_who_may_not_run_programs_installs_none(w: World):
    by = client(w, Credentials("eve"))

    with pytest.raises(NotOwner, match="scope run is missing"):
        install(w, by=by)


def test_the_registry_is_for_clients_and_not_for_programs(w: World):
    install(w)
    pid = w.program()

    for op, args in (
        ("install", {"name": "x", "version": "1", "source": SOURCE}),
        ("uninstall", {"program": "triage@1.0"}),
        ("programs", {}),
        ("program", {"program": "triage"}),
    ):
        with pytest.raises(NotOwner):
            w(op, by=pid, **args)


def test_a_principal_keeps_so_many_programs_and_so_many_bytes():
    w = World(programs=2, programs_bytes=100)
    install(w, "a", source="#" * 40)
    install(w, "b", source="#" * 40)

    with pytest.raises(QuotaExceeded, match="me has 2 programs"):
        install(w, "c", source="#")
    w("uninstall", program="b@1.0")
    with pytest.raises(QuotaExceeded, match="40 of 100 bytes, this one has 61"):
        install(w, "c", source="#" * 61)
    assert install(w, "c", source="#" * 60).size == 60
    assert install(w, "c", source="#", by=client(w, OTHER)).owner == "other", "another principal has room of its own"
    w.check()


# ---- which one


def test_without_a_version_the_latest_is_meant_that_is_no_prerelease(w: World):
    for version in ("1.9", "1.10", "2.0-rc1", "1.2"):
        install(w, version=version, source=f"{SOURCE}# {version}")

    assert names(w) == ["me/triage@2.0-rc1", "me/triage@1.10", "me/triage@1.9", "me/triage@1.2"]
    assert w("program", program="triage").program.version == "1.10"
    assert w("program", program="me/triage@2.0rc1").program.version == "2.0-rc1"
    with pytest.raises(NoSuchFile, match=r"no such version: me/triage@3 \(there are 2.0-rc1, 1.10, 1.9, 1.2\)"):
        w("program", program="triage@3")
    with pytest.raises(NoSuchFile, match="no such program: me/nothing"):
        w("program", program="nothing")


def test_a_prerelease_is_run_by_who_says_so(w: World):
    install(w, version="2.0-rc1")

    with pytest.raises(NoSuchFile, match=r"pre-releases only \(2\.0-rc1\)"):
        w("spawn", program="triage", args='{"task": "x"}')
    assert w.program(program="triage@2.0-rc1")


def test_programs_are_found_by_a_glob(w: World):
    for name in ("triage", "tag", "other"):
        install(w, name)

    assert names(w, "me/t*") == ["me/tag@1.0", "me/triage@1.0"]
    assert names(w, "*@2*") == []
    with pytest.raises(InvalidArgument, match="pattern has"):
        names(w, "*" * 2000)


def test_a_long_list_says_less_of_each_and_one_that_no_answer_holds_is_refused(w: World):
    for number in range(257):
        install(w, f"p{number}", description="x" * 200, schema="{}")

    assert {(len(info.description), info.schema) for info in w("programs").programs} == {(80, "")}
    assert {(len(info.description), info.schema) for info in w("programs", pattern="me/p1*").programs} == {(200, "{}")}

    w = World()
    for number in range(256):
        install(w, f"p{number}", schema=f'{{"x": "{"x" * 60_000}"}}')
    with pytest.raises(InvalidArgument, match=r"256 programs match, about \d+ bytes, the most is 8388608: give a pattern"):
        w("programs")
    assert len(w("programs", pattern="me/p1?@*").programs) == 10


# ---- rights


@pytest.mark.parametrize(
    ("mode", "listed", "read", "run"),
    [
        (0o755, True, "ok", "ok"),
        (0o754, True, "ok", "EACCES"),
        (0o751, True, "EACCES", "ok"),
        (0o700, False, "ENOENT", "ENOENT"),
        (0o770, False, "ENOENT", "ENOENT"),
    ],
)
def test_others_see_read_and_run_by_the_mode(w: World, mode: int, listed: bool, read: str, run: str):
    install(w, mode=mode)
    by = client(w, OTHER)

    def outcome(op: str, **args: Any) -> str:
        try:
            w(op, by=by, **args)
        except SymphonyError as error:
            return error.reason
        return "ok"

    assert (names(w, by=by) == ["me/triage@1.0"]) is listed
    assert outcome("program", program="me/triage") == read
    assert outcome("spawn", program="me/triage") == run
    assert outcome("uninstall", program="me/triage@1.0") == ("EACCES" if listed else "ENOENT")
    assert outcome("install", name="me/triage", version="9", source=SOURCE) == "EACCES"


def test_the_group_of_a_program_is_its_owners(w: World):
    install(w, mode=0o750)
    by = client(w, Credentials("other", ("me",), ("run",)))

    assert w("program", by=by, program="me/triage").source == SOURCE


def test_who_may_not_run_the_latest_runs_the_latest_that_it_may(w: World):
    install(w, version="1.0", mode=0o755)
    install(w, version="2.0", mode=0o744)
    by = client(w, OTHER)

    pid = w("spawn", by=by, program="me/triage").pid

    assert w.kernel.processes[pid].program == "me/triage@1.0"
    assert w("program", by=by, program="me/triage").program.version == "2.0", "to read it is allowed"


def test_admin_installs_and_uninstalls_for_anybody(w: World):
    by = client(w, ADMIN)

    assert install(w, "me/triage", by=by).owner == "me"
    w("uninstall", by=by, program="me/triage@1.0")
    assert names(w) == []


def test_uninstalling_wants_a_version_and_leaves_what_runs(w: World):
    install(w)
    pid = w.program(program="triage")

    with pytest.raises(InvalidArgument, match="say which version"):
        w("uninstall", program="triage")
    w("uninstall", program="triage@1.0")

    assert w("ps", pid=pid).processes[0].program == "me/triage@1.0"
    child = w.program(parent=pid, source=None)
    assert launched(w).source == SOURCE and w.kernel.processes[child].program == "me/triage@1.0", "its own program is still its own"
    with pytest.raises(NoSuchFile):
        w("spawn", program="triage")


# ---- the run of one


def test_a_program_runs_as_its_caller(w: World):
    install(w, entry="begin", source="async def begin(): ...")
    by = client(w, OTHER)

    pid = w("spawn", by=by, program="me/triage").pid

    process, launch = w.kernel.processes[pid], launched(w)
    assert process.cred == OTHER
    assert (process.name, process.program) == ("triage", "me/triage@1.0")
    assert (launch.source, launch.entry, launch.runtime) == ("async def begin(): ...", "begin", "python")


def test_a_program_begins_where_it_was_installed_to_begin(w: World):
    install(w, entry="begin")

    with pytest.raises(InvalidArgument, match=r"me/triage@1\.0 begins at begin, not at other"):
        w("spawn", program="triage", entry="other")


def test_an_installed_module_runs_as_wasm(w: World):
    install(w, code=MODULE)
    w("spawn", program="triage")

    assert (launched(w).runtime, launched(w).code) == ("wasm", MODULE)
    with pytest.raises(InvalidArgument, match="runtime must be wasm"):
        w("spawn", program="triage", runtime="python")


def test_the_abi_of_an_installed_program_stands_in_its_text(w: World):
    install(w, source='__abi__ = "1.1"\n' + SOURCE)

    assert w.kernel.processes[w.program(program="triage")].abi == "1.1"


def test_one_way_to_say_what_is_started(w: World):
    for given in ({"source": SOURCE, "program": "triage"}, {"source": SOURCE, "code": MODULE}, {"code": MODULE, "program": "x"}):
        with pytest.raises(InvalidArgument, match="one of source, code and program"):
            w("spawn", **given)
    with pytest.raises(InvalidArgument, match="the caller is no program"):
        w("spawn")


@pytest.mark.parametrize("way", ["source", "program"])
def test_what_is_declared_cuts_down_what_the_caller_gives(w: World, way: str):
    if way == "program":
        install(w, source=MANIFEST + SOURCE)
    what = {"program": "triage"} if way == "program" else {"source": MANIFEST + SOURCE}
    w.kernel.granted_tools = lambda _: ("web.*", "mail")

    pid = w.program(tools=("web.search", "mail"), limits=ResourceLimits(tokens=1000, tool_calls=5), **what)

    process = w.kernel.processes[pid]
    assert process.cred.paths == ("/kb",)
    assert process.grant is not None
    assert [name for name in ("web.search", "web.get", "mail") if process.grant.allows(name)] == ["web.search"]
    limits = w("getrlimit", pid=pid).limits
    assert (limits.tokens, limits.tool_calls) == (100, 5)


def test_what_a_program_declares_gives_it_nothing(w: World):
    w.kernel.granted_tools = lambda _: ("*",)

    pid = w.program(source=MANIFEST + SOURCE, limits=ResourceLimits(tokens=7))

    grant = w.kernel.processes[pid].grant
    assert grant is not None and not grant.allows("web.search"), "the caller granted nothing"
    assert w("getrlimit", pid=pid).limits.tokens == 7


def test_a_spawn_whose_image_lacks_something_says_so(w: World):
    install(w, source=MANIFEST + SOURCE)
    w.kernel.image = {"python": "3.11.9"}

    for what in ({"program": "triage"}, {"source": MANIFEST + SOURCE}):
        with pytest.raises(BadProgram, match=r"needs numpy>=1\.24; the image has python 3\.11\.9"):
            w("spawn", **what)
    assert not w.kernel.num_programs


def test_trust_is_the_operators_by_principal_or_by_program(w: World):
    install(w)
    for trusted in ("me", "me/triage", "me/triage@1.0"):
        w.kernel.may_trust = lambda name, trusted=trusted: name == trusted
        w("spawn", program="triage", runtime="trusted")
        assert launched(w).runtime == "trusted"

    with pytest.raises(NotOwner, match="not trusted here"):
        w("spawn", source=SOURCE, runtime="trusted")
    with pytest.raises(InvalidArgument, match="a module is never trusted"):
        w("spawn", code=MODULE, runtime="trusted")


# ---- the store


def test_the_store_is_told_of_every_change(w: World):
    install(w)
    assert not w.sent(StoreWrite), "there is none"

    w.kernel.restore(Restored(), 0)
    info = install(w, version="1.1")
    install(w, version="1.1")
    changed = install(w, version="1.1", mode=0o700)
    w("uninstall", program="triage@1.1")

    writes = [(e.programs, e.uninstalled) for e in w.sent(StoreWrite) if e.programs or e.uninstalled]
    assert writes == [
        ((ProgramRecord(info, SOURCE, b""),), ()),
        ((ProgramRecord(changed, SOURCE, b""),), ()),
        ((), (("me/triage", "1.1"),)),
    ]


def test_what_the_store_has_is_there_again():
    first, again = World(), World()
    records = tuple(ProgramRecord(install(first, version=v, mode=0o700), SOURCE, b"") for v in ("1.0", "2.0"))

    again.kernel.restore(Restored(programs=records), 0)

    assert names(again) == ["me/triage@2.0", "me/triage@1.0"]
    assert names(again, by=client(again, OTHER)) == []
    assert len(again.kernel.registry.contents) == 1
    assert again("program", program="triage").source == SOURCE
    again.check()


def test_a_damaged_program_is_not_there_and_who_asks_hears_why(w: World):
    info = install(World())
    w.kernel.restore(Restored(programs=(ProgramRecord(info, SOURCE + "evil()", b""),)), 0)

    assert names(w) == []
    for op in ("spawn", "program"):
        with pytest.raises(DataCorrupt, match=r"me/triage@1\.0 was damaged on the disk .* install it again"):
            w(op, program="triage@1.0")
    w.check()

    install(w)
    assert w.sent(StoreWrite)[-1].uninstalled == (("me/triage", "1.0"),)
    assert w.program(program="triage@1.0")


def test_a_damaged_program_can_be_taken_away(w: World):
    info = install(World())
    w.kernel.restore(Restored(programs=(ProgramRecord(info, "evil()", b""),)), 0)

    w("uninstall", program="triage@1.0.0")

    assert w.sent(StoreWrite)[-1].uninstalled == (("me/triage", "1.0"),)
    with pytest.raises(NoSuchFile):
        w("spawn", program="triage@1.0")
    assert ME.principal == info.owner
