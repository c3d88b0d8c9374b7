"""The operator's file of tools (tools/config.py).

    [http.weather]  [mcp.notes]  [python.desk]     drivers' tables; the name is the tool's, or the prefix of a server's tools
    [secret.github]                                where it comes from, and the only place where it goes
    [grant]                                        which principals may give which tools to programs
    [host]                                         limits of all

Read twice: by the server, so that a mistake is told before a model is loaded, and by the tool host. Nothing here opens a connection
or reads a secret. Every error names the file, the table and the key. The keys are told in docs/tools.md.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from vllm_symphony.errors import InvalidArgument
from vllm_symphony.tools.origin import Allowed, Place
from vllm_symphony.tools.schema import check_schema
from vllm_symphony.tools.toml import Table

NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,47}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAX_TIMEOUT_S = 3600.0
MAX_RESULT_BYTES = 1 << 20  # a result is one answer of the kernel, and goes into a context


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one call. `timeout_s` covers all of it: waiting, connecting, trying again."""

    timeout_s: float = 60.0
    max_result_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class HttpTool:
    """One declared request. Without `url` the caller gives one, inside of `allow`."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    method: str
    url: str | None
    allow: tuple[Allowed, ...]
    query: tuple[str, ...]
    headers: Mapping[str, str]
    idempotent: bool
    bounds: Bounds
    connect_timeout_s: float
    first_byte_timeout_s: float
    max_redirects: int


@dataclass(frozen=True, slots=True)
class McpServer:
    """One MCP server: a command (stdio) or a url (streamable HTTP). Its tools are called `prefix` + their own name."""

    name: str
    command: tuple[str, ...]
    url: str | None
    allow: tuple[Allowed, ...]
    environment: Mapping[str, str]
    cwd: str | None
    user: str | None
    writable: tuple[str, ...] | None  # besides its folder and cwd; None: whatever its user may write
    prefix: str
    tools: tuple[str, ...]
    idempotent: tuple[str, ...]
    bounds: Bounds
    start_timeout_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class PythonPlugin:
    """A file whose functions with `@tool` are tools."""

    name: str
    file: Path
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Secret:
    """`env` or `file` is where its value comes from. It goes to `tools` for `principals` only: as a `header` or `query` parameter
    of requests to `place`, as a `variable` of a server's environment, or to a Python function that asks for it."""

    name: str
    env: str | None
    file: Path | None
    tools: tuple[str, ...]
    principals: tuple[str, ...]
    place: Place | None
    header: str | None
    query: str | None
    variable: str | None
    form: str

    def is_for(self, tool: str, principal: str) -> bool:
        """May a call of `tool` for `principal` use it?"""
        return tool in self.tools and any(fnmatchcase(principal, glob) for glob in self.principals)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. `grants` is (principal glob, tool globs)."""

    path: Path
    http: tuple[HttpTool, ...] = ()
    mcp: tuple[McpServer, ...] = ()
    python: tuple[PythonPlugin, ...] = ()
    secrets: tuple[Secret, ...] = ()
    grants: tuple[tuple[str, tuple[str, ...]], ...] = ()
    max_calls: int = 64
    max_calls_per_principal: int = 16
    max_queued_per_principal: int = 256
    max_servers: int = 64
    max_threads: int = 32
    ca_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict, repr=False)  # of `variables`

    def granted(self, principal: str) -> tuple[str, ...]:
        """Globs of the tools that a principal may give to its programs."""
        return tuple(glob for who, globs in self.grants if fnmatchcase(principal, who) for glob in globs)

    def variables(self) -> frozenset[str]:
        """Names of the server's environment that secrets come from."""
        return frozenset(secret.env for secret in self.secrets if secret.env is not None)

    def taking(self, environment: MutableMapping[str, str]) -> Config:
        """The same with the values of its variables, which are in `environment` no more: what else is started does not get them.

        Raises InvalidArgument for a secret whose variable is not set.
        """
        for secret in self.secrets:
            if secret.env is not None and not environment.get(secret.env):
                raise InvalidArgument(f"{self.path}: [secret.{secret.name}] env: {secret.env} is not set", secret=secret.name)
        return replace(self, values={name: environment.pop(name) for name in self.variables()})


def load(path: Path) -> Config:
    """Read and check the file. Raises InvalidArgument, with file, table and key."""
    try:
        whole = tomllib.loads(path.read_text())
    except OSError as e:
        raise InvalidArgument(f"{path}: cannot be read: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeError) as e:
        raise InvalidArgument(f"{path}: is no TOML: {e}") from None
    top = Table(str(path), "", whole)
    host = top.table("host")
    http = tuple(_http(t.name, t) for t in top.tables("http"))
    mcp = tuple(_mcp(t.name, t, path.parent) for t in top.tables("mcp"))
    python = tuple(_python(t.name, t, path.parent) for t in top.tables("python"))
    names = [entry.name for group in (http, mcp, python) for entry in group]
    for name in names:
        if not NAME.fullmatch(name) or names.count(name) > 1:
            what = "is used twice" if names.count(name) > 1 else "is no name: a letter, then letters, digits, _ and -, at most 48"
            raise InvalidArgument(f"{path}: {name!r} {what}")
    carriers = {entry.name: entry for group in (http, mcp, python) for entry in group}
    secrets = tuple(_secret(t.name, t, path.parent, carriers) for t in top.tables("secret"))
    grant = top.table("grant")
    grants = tuple((who, grant.strings(who)) for who in grant.keys())  # noqa: SIM118  a Table is no dict
    config = Config(
        path, http, mcp, python, secrets, grants,
        max_calls=host.integer("max_calls", 64, 1, 1024),
        max_calls_per_principal=host.integer("max_calls_per_principal", 16, 1, 1024),
        max_queued_per_principal=host.integer("max_queued_per_principal", 256, 0, 65536),
        max_servers=host.integer("max_servers", 64, 1, 1024),
        max_threads=host.integer("max_threads", 32, 1, 1024),
        ca_file=host.file("ca_file", path.parent),
        environment=host.mapping("environment"),
    )  # fmt: skip
    for table in (host, grant, top):
        table.end()
    return config


def _bounds(t: Table) -> Bounds:
    return Bounds(t.number("timeout_s", 60.0, 0.001, MAX_TIMEOUT_S), t.integer("max_result_bytes", 64 << 10, 256, MAX_RESULT_BYTES))


def _allow(t: Table, own_url: str | None) -> tuple[Allowed, ...]:
    """What the key `allow` lists, and the tool's own url unless that is listed."""
    entries = []
    for entry in t.list("allow"):
        if isinstance(entry, str):
            entry = {"url": entry}
        if not isinstance(entry, dict):
            raise t.wrong("allow", f'must hold "https://host" or {{ url = "http://host:port", private = true }}, not {entry!r}')
        inner = t.inner("allow", entry)
        url, private = inner.string("url"), inner.flag("private")
        inner.end()
        try:
            entries.append(Allowed.parse(url, private=private))
        except InvalidArgument as e:
            raise t.wrong("allow", e.message) from None
    if own_url is not None:
        try:
            own = Allowed.of_template(own_url, private=t.flag("private"))
        except InvalidArgument as e:
            raise t.wrong("url", e.message) from None
        entries.append(own)
    return tuple(entries)


def _http(name: str, t: Table) -> HttpTool:
    url = t.string("url", None)
    method = t.string("method", "GET").upper()
    if method not in METHODS:
        raise t.wrong("method", f"must be one of {', '.join(METHODS)}, not {method!r}")
    holes = re.findall(r"\{([^{}]*)\}", url or "")
    default = {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"], "additionalProperties": False}
    parameters = t.object("parameters", default if url is None else _all_strings(holes))
    try:
        check_schema(parameters)
    except InvalidArgument as e:
        raise t.wrong("parameters", e.message) from None
    known = parameters.get("properties", {})
    required = parameters.get("required", ())
    for hole in holes:
        if hole not in known or hole not in required:
            raise t.wrong("url", f"{{{hole}}} must be a required property of parameters")
    if url is None and "url" not in required:
        raise t.wrong("parameters", "a tool without url must have the required property url")
    query = t.strings("query", ())
    for key in query:
        if key not in known:
            raise t.wrong("query", f"{key!r} is no property of parameters")
    allow = _allow(t, url)
    if not allow:
        raise t.wrong("allow", "must list the hosts that a tool without url may call")
    tool = HttpTool(
        name, t.string("description", ""), parameters, method, url, allow, query, t.mapping("headers"),
        t.flag("idempotent", method in ("GET", "HEAD")), _bounds(t),
        connect_timeout_s=t.number("connect_timeout_s", 5.0, 0.001, MAX_TIMEOUT_S),
        first_byte_timeout_s=t.number("first_byte_timeout_s", 30.0, 0.001, MAX_TIMEOUT_S),
        max_redirects=t.integer("max_redirects", 5, 0, 20),
    )  # fmt: skip
    t.end()
    return tool


def _all_strings(names: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": names,
        "additionalProperties": False,
    }


def _mcp(name: str, t: Table, folder: Path) -> McpServer:
    command, url = t.strings("command", ()), t.string("url", None)
    if bool(command) == (url is not None):
        raise t.wrong("command", "a server has either a command (stdio) or a url (streamable HTTP)")
    if url is not None and "{" in url:
        raise t.wrong("url", "a server's url has no {holes}")
    words, writable = tuple(_word(word, folder) for word in command), t.strings("writable", ())
    server = McpServer(
        name, words, url, _allow(t, url) if url is not None else (), t.mapping("environment"), t.string("cwd", None),
        t.string("user", None), None if "*" in writable else writable,
        t.string("prefix", f"{name}_"), t.strings("tools", ("*",)), t.strings("idempotent", ()), _bounds(t),
        start_timeout_s=t.number("start_timeout_s", 20.0, 0.001, MAX_TIMEOUT_S),
        idle_s=t.number("idle_s", 300.0, 0.001, 24 * 3600.0),
    )  # fmt: skip
    if server.prefix and not NAME.fullmatch(server.prefix):
        raise t.wrong("prefix", f"{server.prefix!r} is no beginning of a name")
    if url is not None:
        for key in ("environment", "cwd", "user", "writable"):
            if t.has(key):
                raise t.wrong(key, "is of servers with a command")
    t.end()
    return server


def _word(word: str, folder: Path) -> str:
    """A word of a command: ours for {python}, and what begins with ./ lies beside the file."""
    if word == "{python}":
        return sys.executable
    return str((folder / word).absolute()) if word.startswith("./") else word


def _python(name: str, t: Table, folder: Path) -> PythonPlugin:
    file = t.file("file", folder)
    if file is None:
        raise t.wrong("file", "is missing: the file whose functions are tools")
    plugin = PythonPlugin(name, file, _bounds(t))
    t.end()
    return plugin


def _secret(name: str, t: Table, folder: Path, carriers: Mapping[str, HttpTool | McpServer | PythonPlugin]) -> Secret:
    env, file = t.string("env", None), t.file("file", folder)
    if (env is None) == (file is None):
        raise t.wrong("env", "a secret comes either from env (a name) or from file (a path)")
    tools = t.strings("tools")
    for tool in tools:
        if tool not in carriers:
            raise t.wrong(
                "tools", f"no table [http.{tool}], [mcp.{tool}] or [python.{tool}]; there are: {', '.join(carriers) or '-'}"
            )
    url, header, query, variable = (t.string(key, None) for key in ("url", "header", "query", "variable"))
    form = t.string("format", "{}")
    if form.count("{}") != 1:
        raise t.wrong("format", f"must hold {{}} once, for the value: {form!r}")
    ways = [key for key, value in (("header", header), ("query", query), ("variable", variable)) if value is not None]
    if len(ways) > 1:
        raise t.wrong(ways[1], f"a secret goes one way, and this one has {ways[0]} too")
    for tool in tools:
        _check_way(t, carriers[tool], ways[0] if ways else None)
    if (url is None) != (header is None and query is None):
        raise t.wrong("url", "header and query need url, and url one of these: where the value may go")
    try:
        place = Place.parse(url) if url is not None else None
    except InvalidArgument as e:
        raise t.wrong("url", e.message) from None
    secret = Secret(name, env, file, tools, t.strings("principals", ("*",)), place, header, query, variable, form)
    t.end()
    return secret


def _check_way(t: Table, carrier: HttpTool | McpServer | PythonPlugin, way: str | None) -> None:
    """Whoever has a secret that it cannot use, has it by mistake."""
    if isinstance(carrier, PythonPlugin):
        fits, need = way is None, "no header, query or variable: its functions ask for the secret"
    elif isinstance(carrier, McpServer) and carrier.command:
        fits, need = way == "variable", "a variable"
    else:
        fits, need = way in ("header", "query"), "a header or query"
    if not fits:
        raise t.wrong(way or "header", f"{carrier.name} needs {need}")
