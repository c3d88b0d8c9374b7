"""scripts/abi finds each kind of break, and each change that has no line in docs/abi-changes.md."""

import copy
import importlib.machinery
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def abi():
    """The script as a module; it writes no bytecode beside itself."""
    loader = importlib.machinery.SourceFileLoader("abi_script", str(ROOT / "scripts" / "abi"))
    spec = importlib.util.spec_from_loader("abi_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.fixture(scope="module")
def frozen(abi, tmp_path_factory):
    """A checkout whose ABI was frozen as it is now."""
    folder = tmp_path_factory.mktemp("frozen")
    shutil.copytree(ROOT / "protos" / "symphony", folder / "protos" / "symphony")
    shutil.copy(ROOT / "buf.yaml", folder)
    for path in (abi.TABLE, abi.CHANGES):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / abi.CHANGES).write_text("| date | version | digest | what and why |\n|---|---|---|---|\n")
    assert abi.freeze(folder, "first", breaks=False) == []
    return folder


@pytest.fixture
def root(frozen, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(frozen, tmp_path, dirs_exist_ok=True)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_table(abi, root, change) -> None:
    """Make the frozen table another one, and give it its digest: then the code is what has changed."""
    picture = json.loads((root / abi.TABLE).read_text())
    before = (root / abi.TABLE).read_text()
    change(picture)
    (root / abi.TABLE).write_text(abi.text_of(picture))
    image = (root / abi.IMAGE).read_bytes()
    edit(root / abi.CHANGES, abi.digest(image, before), abi.digest(image, abi.text_of(picture)))


def test_what_was_just_frozen_is_as_promised(abi, root):
    assert abi.check(root) == []


def test_a_field_that_is_gone_from_a_message_is_found(abi, root):
    edit(root / "protos/symphony/v1/call.proto", "  int64 target = 1;\n", "")

    assert any("deleted" in problem and "target" in problem for problem in abi.check(root))


def test_a_field_whose_type_changed_in_a_message_is_found(abi, root):
    edit(root / "protos/symphony/v1/call.proto", "  int64 target = 1;\n", "  string target = 1;\n")

    assert any("changed type" in problem for problem in abi.check(root))


def test_a_new_field_of_a_message_needs_a_line(abi, root):
    edit(root / "protos/symphony/v1/call.proto", "  int64 target = 1;\n", "  int64 target = 1;\n  // Why.\n  string why = 2;\n")

    assert abi.check(root) == ['the ABI has grown since protos/image.binpb: run scripts/abi --freeze "why"']
    assert abi.freeze(root, "cancel says why", breaks=False) == []
    assert abi.check(root) == []
    assert (root / abi.CHANGES).read_text().count("| cancel says why |") == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t["calls"].update(old_call=t["calls"]["ping"]), "call old_call is gone"),
        (lambda t: t["calls"]["ping"].update(kind="wait"), "call ping: kind was wait, is control"),
        (lambda t: t["calls"]["ping"].update(mutates=True), "call ping: a request_id no longer makes its retry happen once"),
        (lambda t: t["calls"]["ping"].update(result="PidResult"), "call ping: result was PidResult, is Done"),
        (lambda t: t["types"].update(Old={}), "type Old is gone"),
        (lambda t: t["types"]["Sleep"].update(unit={"type": "str", "default": "'s'"}), "Sleep.unit is gone"),
        (lambda t: t["types"]["Kill"]["signal"].update(default="'KILL'"), "Kill.signal was "),
        (lambda t: t["types"]["Sleep"]["seconds"].update(type="int"), "Sleep.seconds was "),
        (lambda t: t["types"]["Sleep"].pop("seconds"), "Sleep.seconds is new and has no default"),
        (lambda t: t["features"].append("old"), "feature old is gone"),
        (lambda t: t["limits"].update(MAX_ITEMS=1 << 20), "MAX_ITEMS was "),
    ],
)
def test_a_change_of_the_table_that_breaks_an_old_peer_is_found(abi, change, problem):
    now = abi.table()
    then = copy.deepcopy(now)
    change(then)

    found = abi.broken_table(then, now)

    assert len(found) == 1 and found[0].startswith(problem)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["calls"].pop("ping"),
        lambda t: t["types"]["Kill"].pop("signal"),
        lambda t: t["calls"]["open"].update(mutates=False),
        lambda t: t["calls"]["open"]["errors"].remove("ENOENT"),
        lambda t: t["limits"].update(MAX_ITEMS=1),
    ],
)
def test_what_the_table_has_gained_breaks_nobody(abi, change):
    now = abi.table()
    then = copy.deepcopy(now)
    change(then)

    assert then != now
    assert abi.broken_table(then, now) == []


def test_another_major_version_owes_nothing(abi):
    now = abi.table()

    assert abi.broken_table({**now, "version": "0.9", "features": ["old"]}, now) == []


def test_a_table_that_broke_is_not_frozen_by_chance(abi, root):
    change_table(abi, root, lambda t: t["types"].update(Old={}))

    assert abi.check(root) == abi.freeze(root, "it breaks", breaks=False) == ["type Old is gone"]


def test_a_table_that_has_grown_needs_a_line(abi, root):
    change_table(abi, root, lambda t: t["calls"].pop("ping"))

    assert abi.check(root) == ['the ABI has grown since tests/abi/table.json: run scripts/abi --freeze "why"']
    assert abi.freeze(root, "ping", breaks=False) == []
    assert abi.check(root) == []


@pytest.mark.parametrize("path", ["IMAGE", "TABLE", "CHANGES"])
def test_a_picture_without_its_line_is_found(abi, root, path):
    file = root / getattr(abi, path)
    if path == "CHANGES":
        file.write_text("".join(line for line in file.open() if "| first |" not in line))
    else:
        file.write_bytes(file.read_bytes() + b"\n")

    assert any("has no line for" in problem for problem in abi.check(root))


def test_a_break_that_is_meant_is_marked_in_its_line(abi, root):
    change_table(abi, root, lambda t: t["types"].update(Old={}))

    assert abi.freeze(root, "Old was never used", breaks=True) == []
    assert "| **Breaks.** Old was never used |" in (root / abi.CHANGES).read_text()


def test_freezing_what_is_frozen_adds_no_line(abi, root):
    before = (root / abi.CHANGES).read_text()

    assert abi.freeze(root, "again", breaks=False) == []
    assert (root / abi.CHANGES).read_text() == before
