"""Tools that are one HTTP request (tools/http.py).

    arguments --url template, query, JSON body--> request --allow-list--> + secrets --> Dialer
    result <-- scrubbed, cut text <-- body, bounded <-- response           |
                                                        3xx: everything is checked again, by us; on another origin
                                                        secrets and headers are gone, and do not come back

A status of 400 and above is the tool's own failure, a result; no connection or no time is ours, an error.
"""

from __future__ import annotations

import codecs
import json
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpcore2
import httpx2

from vllm_symphony.abi.calls import ToolResult
from vllm_symphony.abi.types import ToolInfo
from vllm_symphony.errors import AccessDenied, BrokenPipe, InvalidArgument, TimedOut
from vllm_symphony.tools import body
from vllm_symphony.tools.config import HttpTool
from vllm_symphony.tools.dial import Dialer, Resolve, system_resolve
from vllm_symphony.tools.driver import Call, Tool, Transient, cut
from vllm_symphony.tools.origin import check_url, host_of, parse_url, port_of
from vllm_symphony.tools.secret import Vault

MAX_URL = 8192
MAX_BODY = 1 << 20
MAX_RETRY_AFTER_S = 60.0
_OVERLOADED = (502, 503, 504)
_REDIRECTS = (301, 302, 303, 307, 308)
_TEXT = re.compile(r"text/|application/([a-z0-9.+-]+\+)?(json|xml|javascript|x-www-form-urlencoded|x-ndjson|yaml|toml)")
_CHARSETS = re.compile(  # not all that Python has: some take the square of the length
    r"utf-8(-sig)?|utf-16(-[bl]e)?|ascii|iso8859-\d+|cp125\d|koi8-[ru]|gb18030|gbk|gb2312|big5|shift_jis|euc_(jp|kr)|iso2022_jp"
)
_SHOWN = ("content-type", "content-length", "last-modified", "etag", "location", "retry-after")
_BODY_METHODS = ("POST", "PUT", "PATCH")


class HttpDriver:
    """All tables [http.*]."""

    def __init__(self, tools: Sequence[HttpTool], vault: Vault, tls: ssl.SSLContext, resolve: Resolve = system_resolve) -> None:
        self._tools = {tool.name: _Endpoint(tool, vault, Dialer(tool.allow, tls, resolve)) for tool in tools}

    async def start(self, changed: Callable[[str], None]) -> None: ...

    def tools(self, principal: str) -> Sequence[Tool]:
        return [endpoint.tool for endpoint in self._tools.values()]

    async def find(self, principal: str, name: str) -> Tool | None:
        endpoint = self._tools.get(name)
        return None if endpoint is None else endpoint.tool

    async def close(self) -> None:
        for endpoint in self._tools.values():
            await endpoint.dialer.aclose()


class _Endpoint:
    """One table."""

    def __init__(self, table: HttpTool, vault: Vault, dialer: Dialer) -> None:
        self._table = table
        self._vault = vault
        self.dialer = dialer
        info = ToolInfo(table.name, table.description, json.dumps(table.parameters), table.idempotent, "http")
        self.tool = Tool(info, table.parameters, table.bounds, self._run)

    async def _run(self, call: Call) -> ToolResult:
        table = self._table
        url, content = request_of(table, call.arguments)
        method, headers, trusted = table.method, dict(table.headers), True
        for _ in range(table.max_redirects + 1):
            check_url(url, table.allow)
            request = self._request(method, url, headers, content, call.principal if trusted else None)
            response = await self._send(request)
            try:
                target = _target(url, response)
                if target is None:
                    return await self._result(url, method, response)
            finally:
                await response.aclose()
            if _origin(target) != _origin(url):
                headers, trusted = {}, False
            if response.status_code == 303 or (response.status_code in (301, 302) and method == "POST"):
                method, content = ("HEAD" if method == "HEAD" else "GET"), None
            url = target
        return ToolResult(f"more than {table.max_redirects} redirects", is_error=True)

    def _request(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], content: bytes | None, principal: str | None
    ) -> httpx2.Request:
        """With secrets, if it is for a principal and the url is where they may go."""
        table = self._table
        all_headers = {"user-agent": "symphony", "accept": "*/*", "accept-encoding": body.ACCEPTED}
        if content is not None:
            all_headers["content-type"] = "application/json"
        all_headers |= {name.lower(): value for name, value in headers.items()}
        if principal is not None:
            all_headers |= {k.lower(): v for k, v in self._vault.headers(table.name, principal, url).items()}
            if query := self._vault.query(table.name, principal, url):
                url = url.copy_merge_params(query)
        timeout = {"connect": table.connect_timeout_s, "read": table.first_byte_timeout_s, "write": table.first_byte_timeout_s}
        return httpx2.Request(method, url, headers=all_headers, content=content, extensions={"timeout": timeout})

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        """Raises SymphonyError, Transient; no message holds the url, for that may hold a secret."""
        where = f"{host_of(request.url)}:{port_of(request.url)}"
        try:
            return await self.dialer.handle_async_request(request)
        except httpcore2.ConnectTimeout as e:
            raise Transient(TimedOut(f"no connection to {where} in {self._table.connect_timeout_s:g} s")) from e
        except (httpcore2.ReadTimeout, httpcore2.WriteTimeout):
            raise TimedOut(f"{where} did not answer in {self._table.first_byte_timeout_s:g} s") from None
        except httpcore2.ConnectError as e:
            raise Transient(BrokenPipe(f"no connection to {where}: {e}")) from e
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as e:
            raise Transient(BrokenPipe(f"{where} did not answer: {str(e)[:200]}")) from e
        except httpcore2.LocalProtocolError as e:
            raise InvalidArgument(f"the request cannot be sent: {str(e)[:200]}") from None
        except BrokenPipe as e:  # the name has no address
            raise Transient(e) from e

    async def _result(self, url: httpx2.URL, method: str, response: httpx2.Response) -> ToolResult:
        limit = self._table.bounds.max_result_bytes
        try:
            data, more = await body.read(response, limit + 4 * self._vault.longest)  # a value across the limit is found whole
        except httpcore2.ReadTimeout:
            raise TimedOut(f"{host_of(url)}: nothing came for {self._table.first_byte_timeout_s:g} s") from None
        except (httpcore2.NetworkError, httpcore2.RemoteProtocolError) as e:
            raise Transient(BrokenPipe(f"{host_of(url)} ended in the middle of its answer: {str(e)[:200]}")) from e
        text = _text(response, data)
        failed = response.status_code >= 400 or response.status_code < 200
        if failed or method == "HEAD" or text is None:
            text = _head(response) + (
                f"\n\n{text}" if text else f"\n\n({len(data)} bytes that are no text)" if text is None else ""
            )
        text = self._vault.scrub(text)
        content, is_cut = cut(text[: -self._vault.longest or None] if more else text, limit)  # the end may be half a value
        result = ToolResult(content, is_error=failed, truncated=more or is_cut)
        if response.status_code in _OVERLOADED:
            raise Transient(result, _retry_after_s(response))
        return result


def request_of(table: HttpTool, arguments: Mapping[str, Any]) -> tuple[httpx2.URL, bytes | None]:
    """The url and the body that arguments make. Raises InvalidArgument."""
    rest = dict(arguments)
    if table.url is None:
        url = parse_url(_word(rest.pop("url"), "url"))
    else:
        holes = re.findall(r"\{([^{}]*)\}", table.url)
        words = {hole: _word(rest.pop(hole), hole) for hole in dict.fromkeys(holes)}
        for hole, word in words.items():
            if word in ("", ".", ".."):
                raise InvalidArgument(f"arguments.{hole}: {word!r} is no part of a path", at=hole)
        url = parse_url(re.sub(r"\{([^{}]*)\}", lambda m: quote(words[m[1]], safe=""), table.url))
    has_body = table.method in _BODY_METHODS
    query = {name: rest.pop(name) for name in list(rest) if name in table.query or not has_body}
    pairs = [(name, _word(v, name)) for name, value in query.items() for v in (value if isinstance(value, list) else [value])]
    if pairs:
        url = url.copy_with(params=[*url.params.multi_items(), *pairs])
    url = url.copy_with(fragment=None)
    content = json.dumps(rest, ensure_ascii=False).encode(errors="replace") if has_body else None
    if len(str(url)) > MAX_URL or len(content or b"") > MAX_BODY:
        raise InvalidArgument(
            f"a url of {len(str(url))} and a body of {len(content or b'')} bytes: the most is {MAX_URL}, {MAX_BODY}"
        )
    return url, content


def _word(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    raise InvalidArgument(f"arguments.{name}: {type(value).__name__} does not go into a url", at=name)


def _target(url: httpx2.URL, response: httpx2.Response) -> httpx2.URL | None:
    """Where a redirect leads; None for what is none. Raises AccessDenied for what is no http url without a user."""
    location = response.headers.get("location")
    if response.status_code not in _REDIRECTS or not location:
        return None
    try:
        return parse_url(str(url.join(location).copy_with(fragment=None)))
    except (InvalidArgument, httpx2.InvalidURL, ValueError) as e:
        raise AccessDenied(f"{host_of(url)} redirects to what is no url of ours: {str(e)[:200]}") from None


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, host_of(url), port_of(url)


def _text(response: httpx2.Response, data: bytes) -> str | None:
    kind = response.headers.get("content-type", "").lower()
    if kind and not _TEXT.match(kind):
        return None if data else ""
    try:
        charset = codecs.lookup(response.charset_encoding or "utf-8").name
    except LookupError:
        charset = "utf-8"
    return data.decode(charset if _CHARSETS.fullmatch(charset) else "utf-8", errors="replace")


def _head(response: httpx2.Response) -> str:
    lines = [f"HTTP {response.status_code} {response.reason_phrase}".rstrip()]
    return "\n".join(lines + [f"{name}: {response.headers[name]}" for name in _SHOWN if name in response.headers])


def _retry_after_s(response: httpx2.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return min(float(value), MAX_RETRY_AFTER_S) if re.fullmatch(r"\d{1,6}", value) else None
