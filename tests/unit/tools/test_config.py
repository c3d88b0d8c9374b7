"""The operator's file: what it may say, and how each mistake is told."""

from pathlib import Path

import pytest

from tests.unit.tools.local import config
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.tools.schema import check_arguments, check_schema, shallow

GET = '[http.get]\nallow = ["https://a.example"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[http", "is no TOML"),
        ("http = 1", "http: must be a table, not 1"),
        ("[htpt.get]", "htpt: no such key; did you mean http?"),
        ("[http.get]", r"\[http\.get\] allow: must list the hosts"),
        ("[http.get]\nallow = 1", r"\[http\.get\] allow: must be a list, not 1"),
        ('[http.get]\nallow = ["a.example"]', r"\[http\.get\] allow: must begin with https://"),
        ("[http.get]\nallow = [1]", r"\[http\.get\] allow: must hold"),
        ('[http.get]\nallow = [{ ulr = "https://a" }]', r"\[http\.get\.allow\] url: is missing"),
        (GET + "timeout_s = 0", r"\[http\.get\] timeout_s: must be from 0\.001 to 3600, not 0"),
        (GET + 'timeout_s = "1"', r"\[http\.get\] timeout_s: must be a number"),
        (GET + "timeout_s = true", r"\[http\.get\] timeout_s: must be from"),
        (GET + "max_result_bytes = 1.5", r"max_result_bytes: must be a whole number"),
        (GET + "idempotent = 1", r"idempotent: must be true or false"),
        (GET + 'method = "BREW"', r"method: must be one of GET"),
        (GET + "timout_s = 1", r"timout_s: no such key; did you mean timeout_s\?"),
        (GET + "headers = { a = 1 }", r"headers\.a: must be a string"),
        (GET + 'query = ["x"]', r"query: 'x' is no property of parameters"),
        (GET + 'parameters = { type = "string" }', r'parameters: must have type = "object"'),
        (GET + 'parameters = { type = "object", properties = 1 }', r"parameters: is no JSON schema"),
        (GET + 'parameters = { type = "object" }', r"parameters: a tool without url must have the required property url"),
        ('[http.x]\nurl = "https://a/{b}"\nparameters = { type = "object" }', r"url: \{b\} must be a required property"),
        ('[http.x]\nurl = "https://{host}/"', r"url: holes are for the path"),
        (f"[http.{'x' * 49}]\nallow = ['https://a']", "is no name"),
        ('["http"."a b"]\nallow = ["https://a"]', "is no name"),
        (GET + '[mcp.get]\ncommand = ["x"]', "'get' is used twice"),
        ("[mcp.x]", r"\[mcp\.x\] command: a server has either"),
        ('[mcp.x]\ncommand = ["x"]\nurl = "https://a"', r"command: a server has either"),
        ('[mcp.x]\nurl = "https://a"\ncwd = "/"', r"cwd: is of servers with a command"),
        ('[mcp.x]\nurl = "https://a/{b}"', r"url: a server's url has no \{holes\}"),
        ('[mcp.x]\ncommand = ["x"]\nprefix = "1-"', r"prefix: '1-' is no beginning"),
        ("[python.x]", r"\[python\.x\] file: is missing"),
        ('[python.x]\nfile = "none.py"', r"file: no such file: .*none\.py"),
        (GET + '[secret.k]\nenv = "K"', r"\[secret\.k\] tools: is missing"),
        (GET + '[secret.k]\ntools = ["get"]', r"env: a secret comes either from env"),
        (GET + '[secret.k]\nenv = "K"\ntools = ["got"]', r"tools: no table \[http\.got\].*there are: get"),
        (GET + '[secret.k]\nenv = "K"\ntools = ["get"]', r"header: get needs a header or query"),
        (GET + '[secret.k]\nenv = "K"\ntools = ["get"]\nheader = "A"', r"url: header and query need url"),
        (GET + '[secret.k]\nenv = "K"\ntools = ["get"]\nheader = "A"\nquery = "b"', r"query: a secret goes one way"),
        (GET + '[secret.k]\nenv = "K"\ntools = ["get"]\nvariable = "A"', r"variable: get needs a header or query"),
        (GET + '[secret.k]\nenv = "K"\ntools = ["get"]\nheader = "A"\nurl = "a"', r"url: must begin with https://"),
        (GET + '[secret.k]\nenv = "K"\ntools = ["get"]\nformat = "Bearer"', r"format: must hold \{\} once"),
        ('[mcp.x]\ncommand = ["x"]\n[secret.k]\nenv = "K"\ntools = ["x"]', r"header: x needs a variable"),
        ("[grant]\nops = 1", r"\[grant\] ops: must be a list of strings"),
        ("[host]\nmax_calls = 0", r"\[host\] max_calls: must be a whole number from 1"),
        ('[host]\nca_file = "none.pem"', r"\[host\] ca_file: no such file"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_file_table_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        config(tmp_path, text)

    assert refused.value.message.startswith(str(tmp_path / "tools.toml"))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    from vllm_symphony.tools.config import load

    with pytest.raises(InvalidArgument, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")


def test_defaults_are_the_safe_ones(tmp_path: Path) -> None:
    read = config(tmp_path, GET + '[mcp.notes]\ncommand = ["{python}", "./server.py", "-v"]')

    (get,), (notes,) = read.http, read.mcp
    assert (get.method, get.idempotent, get.max_redirects, get.allow[0].private) == ("GET", True, 5, False)
    assert get.parameters["required"] == ["url"]
    assert notes.command[1:] == (str(tmp_path / "server.py"), "-v")
    assert (notes.prefix, notes.user, notes.idempotent) == ("notes_", None, ())
    assert read.granted("anybody") == ()


def test_a_tool_that_changes_something_is_not_idempotent_unless_it_is_said(tmp_path: Path) -> None:
    post = '[http.a]\nmethod = "POST"\nurl = "https://a.example/x"\n'

    assert not config(tmp_path, post).http[0].idempotent
    assert config(tmp_path, post + "idempotent = true").http[0].idempotent


def test_grants_add_up_by_principal(tmp_path: Path) -> None:
    read = config(tmp_path, '[grant]\n"*" = ["a"]\nops = ["b_*"]\n"ci-*" = ["c"]')

    assert read.granted("ops") == ("a", "b_*")
    assert read.granted("ci-1") == ("a", "c")
    assert read.granted("x") == ("a",)


def test_a_secret_whose_variable_is_not_set_is_told_before_anything_starts(tmp_path: Path) -> None:
    read = config(tmp_path, GET + '[secret.k]\nenv = "K"\ntools = ["get"]\nheader = "A"\nurl = "https://a.example"')

    assert read.variables() == {"K"}
    with pytest.raises(InvalidArgument, match=r"\[secret\.k\] env: K is not set"):
        read.taking({})


def test_a_secrets_variable_is_taken_away_from_what_else_is_started(tmp_path: Path) -> None:
    environment = {"K": "the value", "PATH": "/bin"}

    read = config(tmp_path, GET + '[secret.k]\nenv = "K"\ntools = ["get"]\nheader = "A"\nurl = "https://a.example"').taking(
        environment
    )

    assert environment == {"PATH": "/bin"} and read.values == {"K": "the value"}
    assert "the value" not in repr(read)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {},
        {"type": "object", "$ref": "http://169.254.169.254/"},
        {"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"type": "object", "x": "y" * 40_000},
        {"type": "object", "properties": {"a": {"type": "nothing"}}},
    ],
)
def test_a_schema_that_we_cannot_check_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        check_schema(schema)


def test_a_schema_that_is_nested_without_end_is_refused() -> None:
    schema: dict[str, object] = {"type": "object"}
    inner = schema
    for _ in range(200):
        inner["not"] = inner = {}

    with pytest.raises(InvalidArgument):
        check_schema(schema)


def test_a_reference_to_itself_ends_in_an_error() -> None:
    schema = {"type": "object", "$ref": "#"}
    check_schema(schema)

    with pytest.raises(InvalidArgument, match="cannot be applied"):
        check_arguments(schema, {})


def test_of_a_strangers_schema_the_surface_is_applied() -> None:
    bomb: dict[str, object] = {"$defs": {"d40": {"type": "string"}}}
    for level in range(40):
        bomb["$defs"][f"d{level}"] = {"allOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2}  # type: ignore[index]
    theirs = {
        **bomb, "type": "object", "additionalProperties": False, "required": ["a"], "patternProperties": {"^(a+)+$": {}},
        "properties": {
            "a": {"$ref": "#/$defs/d0", "pattern": "^(a+)+$"}, "n": {"type": ["integer", "null"], "minimum": 1},
            "unit": {"enum": ["C", "F"]}, "odd": {"type": "whatever", "enum": [{}]}, "any": True,
        },
    }  # fmt: skip

    ours = shallow(theirs)

    assert ours == {
        "type": "object",
        "properties": {"a": {}, "n": {"type": ["integer", "null"]}, "unit": {"enum": ["C", "F"]}, "odd": {}, "any": {}},
        "required": ["a"],
        "additionalProperties": False,
    }
    check_arguments(ours, {"a": "a" * 40 + "b", "n": 0, "unit": "C"})
    for arguments, said in (
        ({}, "'a' is a required"),
        ({"a": 1, "n": "x"}, r"arguments\.n"),
        ({"a": 1, "b": 2}, "'b' was unexpected"),
    ):
        with pytest.raises(InvalidArgument, match=said):
            check_arguments(ours, arguments)


@pytest.mark.parametrize(
    "schema", [{}, {"type": "array"}, {"type": "object", "properties": 1}, {"type": "object", "x": "y" * 40_000}]
)
def test_a_strangers_schema_that_is_none_of_an_object_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        shallow(schema)
