"""The manual says what is: calls, fields, defaults, errors, the library's words; its examples run on the simulated machine."""

import ast
import inspect
import json
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path

import msgspec
import pytest

from vllm_symphony import lip
from vllm_symphony.abi import calls, types
from vllm_symphony.abi.codec import Answer, read_args, read_call, read_part, read_result
from vllm_symphony.abi.table import CALLS
from vllm_symphony.errors import BY_REASON

ROOT = Path(__file__).parents[2]
MAN = ROOT / "vllm_symphony" / "man"
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "ERRORS", "EXAMPLE", "NOTES", "SEE ALSO"]
GUIDES = {"intro", "types", "files", "sampling", "sessions"}
COMMON = frozenset.intersection(*(spec.all_errors for spec in CALLS.values()))
PAGES = sorted(page.stem for page in MAN.glob("*.md"))


def page(name: str) -> str:
    return (MAN / f"{name}.md").read_text()


def section(name: str, title: str) -> str:
    return re.split(r"^## ", page(name).split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


PROGRAMS = [op for op in CALLS if "```python\n" in section(op, "EXAMPLE")]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, without its head."""
    found = re.findall(r"^\| field .*\n\|[-|]+\n((?:\|.*\n)*)", text, re.MULTILINE)
    return [[re.split(r"(?<!\\) \| |(?<!\\)\| ?", row.strip())[1:-1] for row in table.splitlines()] for table in found]


def rows_of(cls: type) -> list[list[str]]:
    """What a table must say of a dataclass: names, types, defaults."""
    return [[f"`{f.name}`", str(f.type).replace(" | None", "?").replace("|", "\\|"), _default(f)] for f in fields(cls)]


def _default(f: Field) -> str:
    if f.default is MISSING:
        return "" if f.default_factory is MISSING else "`{}`"
    if is_dataclass(f.default):
        return "`{}`"
    if f.default is None:
        return "none"
    return f"`{f.default:#o}`" if f.name == "mode" and f.type == "int" else "`" + repr(f.default).replace("'", '"') + "`"


def test_every_call_has_a_page_and_no_page_is_an_orphan():
    assert set(PAGES) == set(CALLS) | GUIDES


@pytest.mark.parametrize("op", CALLS)
def test_a_page_has_its_sections_in_order(op):
    found = re.findall(r"^## (.*)$", page(op), re.MULTILINE)

    assert page(op).startswith(f"# {op}\n\n## NAME\n\n{op} - ")
    assert found == [title for title in SECTIONS if title in found]
    assert set(SECTIONS) - set(found) <= {"NOTES"}


@pytest.mark.parametrize("op", CALLS)
def test_the_kind_and_whether_a_retry_happens_once_are_the_tables(op):
    synopsis, spec = section(op, "SYNOPSIS"), CALLS[op]

    assert f"Kind `{spec.kind}`:" in synopsis
    assert ("a `request_id` makes a retry happen once" in synopsis) is spec.mutates


@pytest.mark.parametrize("op", CALLS)
def test_the_fields_are_those_of_the_dataclasses(op):
    spec = CALLS[op]
    takes, gives = tables(section(op, "SYNOPSIS")), tables(section(op, "RETURN VALUE"))
    wanted = [rows_of(cls) for cls in (spec.result, spec.part) if cls is not None and fields(cls)]

    assert [[row[:3] for row in table] for table in takes] == ([rows_of(spec.args)] if fields(spec.args) else [])
    assert [[row[:3] for row in table] for table in gives] == wanted
    assert all(row[3] for table in takes + gives for row in table)
    assert f"`{spec.args.__name__}`" in section(op, "SYNOPSIS") and f"`{spec.result.__name__}`" in section(op, "RETURN VALUE")


def test_the_values_are_those_of_the_dataclasses_and_all_that_calls_speak_of():
    told = re.findall(r"^## (\w+)$", page("types"), re.MULTILINE)[2:]
    spoken_of = {name for op in CALLS for rows in tables(page(op)) for row in rows for name in re.findall(r"[A-Z]\w+", row[1])}

    assert spoken_of <= {*told, "Forward", "ForwardResult"}
    for name, table in zip(told, tables(page("types")), strict=True):
        assert [row[:3] for row in table] == rows_of(getattr(types, name, None) or getattr(calls, name))


@pytest.mark.parametrize("op", CALLS)
def test_the_errors_are_those_of_the_table(op):
    listed = re.findall(r"^- `(\w+)`: ", section(op, "ERRORS"), re.MULTILINE)

    assert len(listed) == len(set(listed))
    assert set(listed) - COMMON == CALLS[op].all_errors - COMMON
    assert set(listed) <= CALLS[op].all_errors


def test_the_errors_of_every_call_stand_in_the_introduction():
    listed = re.findall(r"^- `(\w+)`: ", section("intro", "ERRORS OF EVERY CALL"), re.MULTILINE)

    assert set(listed) == COMMON


@pytest.mark.parametrize("name", PAGES)
def test_every_errno_word_of_a_page_is_one(name):
    text = re.sub(r"^## .*$", "", page(name), flags=re.MULTILINE)
    words = set(re.findall(r"\bE[A-Z]{3,}\b", text)) - {"EXCL"}

    assert words <= set(BY_REASON)


@pytest.mark.parametrize("op", CALLS)
def test_the_synopsis_names_the_librarys_own_parameters(op):
    synopsis = section(op, "SYNOPSIS")
    lines = synopsis.split("```python\n")[1].split("```")[0].splitlines() if "```python" in synopsis else []

    for line in lines:
        call = ast.parse(line.removeprefix("await "), mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
        home = {
            "lip": lip, "file": lip.File, "dist": lip.Distribution, "process": lip.Process, "channel": lip.Channel,
            "message": lip.Message,
        }[call.func.value.id]  # fmt: skip
        real = [p for p in inspect.signature(getattr(home, call.func.attr)).parameters.values() if p.name != "self"]
        words = sorted([*call.args, *call.keywords], key=lambda word: word.col_offset)
        named = [
            ast.unparse(word).lstrip("*") if isinstance(word, ast.expr) else word.arg or ast.unparse(word.value) for word in words
        ]
        assert named == [p.name for p in real]
        given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
        plain = {p.name: str(p.default) if isinstance(p.default, str) else p.default for p in real}
        assert given == {name: value for name, value in plain.items() if value is not inspect.Parameter.empty}


@pytest.mark.parametrize("op", PROGRAMS)
def test_an_example_runs_and_leaves_nothing(op, machine):
    source = section(op, "EXAMPLE").split("```python\n")[1].split("```")[0]

    run = machine.start(source)
    machine.run()

    assert run.value
    assert run.left_open == machine.files() == []
    assert op in {call.op for pid in machine.runs for call in machine.calls(pid)}


@pytest.mark.parametrize("guide", sorted(guide for guide in GUIDES if "```python\n" in page(guide)))
def test_a_guides_example_runs_and_leaves_nothing(guide, machine):
    run = machine.start(section(guide, "EXAMPLE").split("```python\n")[1].split("```")[0])
    machine.run()

    assert run.value
    assert run.left_open == machine.files() == []


def test_only_what_no_program_can_call_has_an_example_on_the_wire():
    assert set(CALLS) - set(PROGRAMS) == {"hello", "keep_alive"} | {op for op, spec in CALLS.items() if spec.kind == "edge"}


@pytest.mark.parametrize("name", ["intro", "sessions", *(op for op in CALLS if op not in PROGRAMS)])
def test_an_example_on_the_wire_is_what_the_codec_reads(name):
    frames = [json.loads(line) for line in page(name).split("```json\n")[1].split("```")[0].splitlines()]
    ops: dict[int, str] = {}

    for frame in frames:
        body = msgspec.msgpack.encode(frame)
        if "op" in frame:
            ops[frame["id"]] = frame["op"]
            read_args(read_call(body))
            continue
        answer, op = msgspec.msgpack.decode(body, type=Answer), ops[frame["id"]]
        if "ok" in frame:
            result = read_result(op, answer.ok)
            assert set(frame["ok"]) <= {f.name for f in fields(result)}
        elif "part" in frame:
            assert read_part(op, answer.part)
        else:
            assert frame["err"]["reason"] in CALLS[op].all_errors
    assert name in GUIDES or set(ops.values()) == {name}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_points_to_is_there(name):
    for target in re.findall(r"\]\(([^)]+)\)", page(name)):
        file, _, anchor = target.partition("#")
        assert (MAN / file).is_file()
        headings = {h.lower().replace(" ", "-") for h in re.findall(r"^## (.*)$", (MAN / file).read_text(), re.MULTILINE)}
        assert not anchor or anchor in headings


@pytest.mark.parametrize("name", PAGES)
def test_a_page_sees_also_others_and_each_once(name):
    others = re.findall(r"\[(\w+)\]\((\w+)\.md\)", section(name, "SEE ALSO"))

    assert others and all(text == target != name for text, target in others)
    assert len(others) == len(set(others))


def test_the_docs_folder_has_the_pages():
    assert (ROOT / "docs" / "calls").is_symlink()
    assert sorted(p.stem for p in (ROOT / "docs" / "calls").glob("*.md")) == PAGES
