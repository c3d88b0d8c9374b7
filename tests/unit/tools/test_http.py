"""HTTP tools against servers on this machine."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.tools.local import KEY, Request, Tools, response, run, says, serving
from vllm_symphony import errors


def get(port: int, more: str = "", allow: str = "") -> str:
    """A tool that fetches any url of one server."""
    return f"""
[http.get]
allow = [{{ url = "http://127.0.0.1:{port}", private = true }}{allow}]
{more}
"""


def test_arguments_go_into_the_path_the_query_and_nowhere_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("sunny")) as server:
            tools = Tools(tmp_path, f"""
[http.weather]
url = "http://127.0.0.1:{server.port}/v1/{{city}}/now?units=c"
private = true
[http.weather.parameters]
type = "object"
properties = {{ city = {{ type = "string" }}, days = {{ type = "integer" }} }}
required = ["city"]
""")  # fmt: skip
            result = await tools("weather", city="São Paulo/#?", days=3)

            assert (result.content, result.is_error, result.truncated, result.num_tries) == ("sunny", False, False, 1)
            assert server.heard[0].target == "/v1/S%C3%A3o%20Paulo%2F%23%3F/now?units=c&days=3"
            assert server.heard[0].headers["host"] == f"127.0.0.1:{server.port}"
            for city in ("", ".", ".."):
                with pytest.raises(errors.InvalidArgument, match="no part of a path"):
                    await tools("weather", city=city)
            with pytest.raises(errors.AccessDenied):
                await tools("weather", city="../../admin")
            assert len(server.heard) == 1

    run(main())


def test_a_method_with_a_body_sends_what_is_left_as_json(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says('{"id": 7}', content_type="application/json")) as server:
            tools = Tools(tmp_path, f"""
[http.add]
method = "POST"
url = "http://127.0.0.1:{server.port}/items"
private = true
query = ["dry"]
headers = {{ X-App = "symphony" }}
[http.add.parameters]
type = "object"
properties = {{ dry = {{ type = "boolean" }}, text = {{ type = "string" }}, tags = {{ type = "array" }} }}
""")  # fmt: skip
            result = await tools("add", dry=True, text="hé", tags=["a", {"b": None}])

            heard = server.heard[0]
            assert (heard.method, heard.target) == ("POST", "/items?dry=true")
            assert json.loads(heard.body) == {"text": "hé", "tags": ["a", {"b": None}]}
            assert heard.headers["x-app"] == "symphony" and heard.headers["content-type"] == "application/json"
            assert json.loads(result.content) == {"id": 7}

    run(main())


def test_a_url_that_is_not_allowed_is_never_called(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("x")) as server, serving(says("y")) as other:
            tools = Tools(tmp_path, get(server.port))
            for url in (
                f"http://127.0.0.1:{other.port}/",
                f"https://127.0.0.1:{server.port}/",
                f"http://localhost:{server.port}/",
                "http://169.254.169.254/latest/meta-data",
                "http://[::ffff:169.254.169.254]/",
            ):
                with pytest.raises(errors.AccessDenied, match="allow-list"):
                    await tools("get", url=url)
            for url in ("file:///etc/passwd", "gopher://x/", "//x/", "x", f"http://u:p@127.0.0.1:{server.port}/", "http://[::1/"):
                with pytest.raises(errors.InvalidArgument):
                    await tools("get", url=url)
            assert not server.heard and not other.heard

    run(main())


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00:ec2::254", "224.0.0.1", "0.0.0.0"]
)
def test_a_public_name_with_a_private_address_is_refused_before_it_is_dialled(tmp_path: Path, address: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["93.184.216.34", address]

    async def main() -> None:
        tools = Tools(tmp_path, '[http.get]\nallow = ["http://example.com"]', resolve)
        with pytest.raises(errors.AccessDenied, match="which is not public"):
            await tools("get", url="http://example.com/")

    run(main())


def test_a_name_is_looked_up_once_and_the_address_that_was_checked_is_dialled(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("the first")) as server:
            asked: list[str] = []

            async def resolve(host: str, port: int) -> Sequence[str]:
                asked.append(host)
                return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]  # nobody listens there

            text = f'[http.get]\nallow = [{{ url = "http://intern.example:{server.port}", private = true }}]'
            tools = Tools(tmp_path, text, resolve)
            result = await tools("get", url=f"http://intern.example:{server.port}/a")

            assert result.content == "the first" and asked == ["intern.example"]
            assert server.heard[0].headers["host"] == f"intern.example:{server.port}"

    run(main())


def test_an_answer_that_changes_between_two_requests_is_checked_at_each(tmp_path: Path) -> None:
    """DNS rebinding: the first look is public, the second leads inside."""

    async def main() -> None:
        async with serving(says("inside")) as server:
            answers = [["127.0.0.1"], ["169.254.169.254"]]

            async def resolve(host: str, port: int) -> Sequence[str]:
                return answers.pop(0)

            text = f'[http.get]\nallow = [{{ url = "http://rebind.example:{server.port}", private = true }}]'
            tools = Tools(tmp_path, text, resolve)
            await tools("get", url=f"http://rebind.example:{server.port}/")
            with pytest.raises(errors.AccessDenied, match=r"169\.254\.169\.254"):
                await tools("get", url=f"http://rebind.example:{server.port}/")
            assert server.num_connections == 1

    run(main())


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest", "http://127.0.0.1:1/", "file:///etc/passwd", "http://u:p@127.0.0.1/", "ftp://x/"]
)
def test_a_redirect_to_where_the_tool_may_not_go_is_not_followed(tmp_path: Path, location: str) -> None:
    async def main() -> None:
        async with serving(says("", "302 Found", location=location)) as server:
            tools = Tools(tmp_path, get(server.port))
            with pytest.raises(errors.AccessDenied):
                await tools("get", url=f"http://127.0.0.1:{server.port}/")
            assert len(server.heard) == 1

    run(main())


def test_a_redirect_to_an_allowed_name_with_a_private_address_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("", "307 Go", location="http://public.example/")) as server:

            async def resolve(host: str, port: int) -> Sequence[str]:
                return ["127.0.0.1"]

            tools = Tools(tmp_path, get(server.port, allow=', "http://public.example"'), resolve)
            with pytest.raises(errors.AccessDenied, match=r"public\.example has the address 127\.0\.0\.1"):
                await tools("get", url=f"http://127.0.0.1:{server.port}/")

    run(main())


def test_redirects_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("", "302 Found", location="/again")) as server:
            tools = Tools(tmp_path, get(server.port, "max_redirects = 3"))
            result = await tools("get", url=f"http://127.0.0.1:{server.port}/")

            assert result.is_error and result.content == "more than 3 redirects"
            assert [request.target for request in server.heard] == ["/", "/again", "/again", "/again"]

    run(main())


def secret(port: int, path: str = "/") -> str:
    return f"""
[secret.key]
env = "KEY"
tools = ["get"]
principals = ["me", "ops-*"]
url = "http://127.0.0.1:{port}{path}"
header = "Authorization"
format = "Bearer {{}}"
"""


def test_a_secret_goes_to_its_place_for_its_principals_and_never_after_another_origin(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("", "302 Found", location="PLACE")) as first, serving(says("", "302")) as second:
            first._answer = says("", "302 Found", location=f"http://127.0.0.1:{second.port}/b")
            back = [f"http://127.0.0.1:{first.port}/back"]

            async def bounce(request: Request, writer: asyncio.StreamWriter) -> None:
                writer.write(response(b"", "302 Found", location=back[0]))

            async def home(request: Request, writer: asyncio.StreamWriter) -> None:
                target = f"http://127.0.0.1:{second.port}/b"
                writer.write(response(b"home") if request.target == "/back" else response(b"", "302 Found", location=target))

            first._answer, second._answer = home, bounce
            allow = f', {{ url = "http://127.0.0.1:{second.port}", private = true }}'
            tools = Tools(tmp_path, get(first.port, 'headers = { X-A = "b" }', allow) + secret(first.port), KEY=KEY)

            result = await tools("get", url=f"http://127.0.0.1:{first.port}/a")

            assert result.content == "home"
            sent = [(r.target, r.headers.get("authorization"), r.headers.get("x-a")) for r in (*first.heard, *second.heard)]
            assert sent == [("/a", f"Bearer {KEY}", "b"), ("/back", None, None), ("/b", None, None)]

    run(main())


@pytest.mark.parametrize(
    ("principal", "path", "goes"),
    [("me", "/v1/x", True), ("ops-1", "/v1/x", True), ("you", "/v1/x", False), ("me", "/v2", False), ("me", "/v1x", False),
     ("me", "/v1/%2e%2e/x", False)],
)  # fmt: skip
def test_a_secret_is_bound_to_principal_and_path(tmp_path: Path, principal: str, path: str, goes: bool) -> None:
    async def main() -> None:
        async with serving(says("ok")) as server:
            tools = Tools(tmp_path, get(server.port) + secret(server.port, "/v1"), KEY=KEY)
            await tools("get", principal=principal, url=f"http://127.0.0.1:{server.port}{path}")

            assert ("authorization" in server.heard[0].headers) is goes

    run(main())


def test_an_echo_of_the_secret_is_scrubbed_in_every_form(tmp_path: Path) -> None:
    async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
        from base64 import b64encode
        from urllib.parse import quote

        sent = request.headers["authorization"]
        forms = [sent, quote(KEY), quote(KEY, safe=""), b64encode(KEY.encode()).decode(), b64encode(f"x:{KEY}!".encode()).decode()]
        forms += [KEY.encode().hex(), json.dumps({"k": KEY}), quote(KEY, safe="").lower()]
        writer.write(response("\n".join(forms).encode()))

    async def main() -> None:
        async with serving(echo) as server:
            tools = Tools(tmp_path, get(server.port) + secret(server.port), KEY=KEY)
            result = await tools("get", url=f"http://127.0.0.1:{server.port}/")

            assert result.content.count("[secret key]") == 8
            assert "s3cret" not in result.content and "czNjcmV0" not in result.content and "value" not in result.content

    run(main())


def test_a_secret_in_the_query_is_in_no_error_and_a_cut_answer_has_no_half_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("x" * 250 + KEY * 40)) as server:
            query = secret(server.port).replace('header = "Authorization"', 'query = "key"').replace("Bearer ", "")
            tools = Tools(tmp_path, get(server.port, "max_result_bytes = 256") + query, KEY=KEY)
            result = await tools("get", url=f"http://127.0.0.1:{server.port}/?a=1")

            assert server.heard[0].target == "/?a=1&key=s3cret%2Fvalue%2B1"
            assert result.truncated and result.content == "x" * 250 + "[secre"

    run(main())


def test_a_huge_body_costs_what_the_limit_costs(tmp_path: Path) -> None:
    sent = 0

    async def pour(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"y" * 65536)
            await writer.drain()
            sent += 65536

    async def main() -> None:
        async with serving(pour) as server:
            tools = Tools(tmp_path, get(server.port, "max_result_bytes = 1000"))
            result = await tools("get", url=f"http://127.0.0.1:{server.port}/")

            assert result.truncated and result.content == "y" * 1000
            assert sent < 16 << 20

    run(main())


def test_a_gzip_bomb_costs_what_the_limit_costs(tmp_path: Path) -> None:
    bomb = gzip.compress(b"z" * (64 << 20))

    async def main() -> None:
        async with serving(says(bomb, content_encoding="gzip")) as server:
            tools = Tools(tmp_path, get(server.port, "max_result_bytes = 1000"))
            result = await tools("get", url=f"http://127.0.0.1:{server.port}/")

            assert result.truncated and result.content == "z" * 1000

    run(main())


@pytest.mark.parametrize(
    ("data", "encoding"),
    [(gzip.compress(b"hello"), "gzip"), (zlib.compress(b"hello"), "deflate"), (zlib.compress(b"hello")[2:-4], "deflate"),
     (b"hello", "identity")],
    ids=["gzip", "deflate", "raw deflate", "identity"],  # packed bytes have the time in them
)  # fmt: skip
def test_an_encoding_that_we_asked_for_is_undone(tmp_path: Path, data: bytes, encoding: str) -> None:
    async def main() -> None:
        async with serving(says(data, content_encoding=encoding)) as server:
            result = await Tools(tmp_path, get(server.port))("get", url=f"http://127.0.0.1:{server.port}/")

            assert (result.content, result.truncated) == ("hello", False)

    run(main())


@pytest.mark.parametrize(
    ("data", "encoding"),
    [(b"x", "br"), (gzip.compress(b"x"), "gzip, gzip"), (b"no gzip", "gzip")],
    ids=["unknown", "twice", "none"],
)
def test_an_encoding_that_we_did_not_ask_for_is_an_error(tmp_path: Path, data: bytes, encoding: str) -> None:
    async def main() -> None:
        async with serving(says(data, content_encoding=encoding)) as server:
            with pytest.raises(errors.BrokenPipe):
                await Tools(tmp_path, get(server.port))("get", url=f"http://127.0.0.1:{server.port}/")

    run(main())


def test_headers_without_end_are_an_error(tmp_path: Path) -> None:
    async def babble(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x-a: " + b"b" * 1000 + b"\r\n")
            await writer.drain()

    async def main() -> None:
        async with serving(babble) as server:
            with pytest.raises(errors.BrokenPipe, match="did not answer"):
                await Tools(tmp_path, get(server.port, "idempotent = false"))("get", url=f"http://127.0.0.1:{server.port}/")

    run(main())


async def silence(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
    for _ in range(1000):
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.02)


def test_a_server_that_says_nothing_is_left_after_the_time_for_its_first_byte(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(silence) as server:
            tools = Tools(tmp_path, get(server.port, "first_byte_timeout_s = 0.1"))
            with pytest.raises(errors.TimedOut, match=r"did not answer in 0\.1 s"):
                await tools("get", url=f"http://127.0.0.1:{server.port}/")
            assert len(server.heard) == 1  # too late is not tried again

    run(main())


@pytest.mark.parametrize("answer", [silence, drip])
def test_a_cancelled_call_closes_its_connection(tmp_path: Path, answer: object) -> None:
    async def main() -> None:
        async with serving(answer) as server:  # type: ignore[arg-type]
            tools = Tools(tmp_path, get(server.port))
            task = asyncio.create_task(tools("get", url=f"http://127.0.0.1:{server.port}/"))
            await server.arrived.wait()
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if answer is drip:
                await server.left.wait()
            assert not tools.driver._tools["get"].dialer._pool.connections

    run(main())


def failing(times: int, status: str = "503 Busy", **headers: str) -> tuple[list[int], object]:
    seen: list[int] = []

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        seen.append(1)
        writer.write(response(b"busy", status, **headers) if len(seen) <= times else response(b"fine"))

    return seen, answer


def test_only_an_idempotent_tool_is_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        for idempotent, times, want in (("true", 2, (False, 3)), ("true", 5, (True, 3)), ("false", 2, (True, 1))):
            seen, answer = failing(times)
            async with serving(answer) as server:  # type: ignore[arg-type]
                tools = Tools(tmp_path, get(server.port, f"idempotent = {idempotent}"))
                result = await tools("get", url=f"http://127.0.0.1:{server.port}/")

                assert (result.is_error, result.num_tries) == want and len(seen) == want[1]

    run(main())


def test_no_other_try_begins_after_the_time_limit(tmp_path: Path) -> None:
    async def main() -> None:
        seen, answer = failing(9, retry_after="30")
        async with serving(answer) as server:  # type: ignore[arg-type]
            result = await Tools(tmp_path, get(server.port))("get", url=f"http://127.0.0.1:{server.port}/")

            assert result.num_tries == 1 == len(seen)
            assert result.content.startswith("HTTP 503 Busy\n") and result.content.endswith("\n\nbusy")

    run(main())


def test_a_failure_of_the_tool_is_a_result_and_one_of_the_line_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says("no such item", "404 Not Found")) as server:
            tools = Tools(tmp_path, get(server.port))
            result = await tools("get", url=f"http://127.0.0.1:{server.port}/")
        with pytest.raises(errors.BrokenPipe, match="no connection"):
            await tools("get", url=f"http://127.0.0.1:{server.port}/")

        assert result.is_error and "404 Not Found" in result.content and "no such item" in result.content

    run(main())


def test_bytes_that_are_no_text_are_told_not_shown(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(says(b"\x89PNG\r\n", content_type="image/png")) as server:
            result = await Tools(tmp_path, get(server.port))("get", url=f"http://127.0.0.1:{server.port}/")

            assert result.content.endswith("(6 bytes that are no text)") and "image/png" in result.content

    run(main())


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [("é".encode("latin-1"), "ISO-8859-1", "é"), ("язык".encode("koi8-r"), "koi8-r", "язык"), (b"abc-xyz", "punycode", "abc-xyz"),
     (b"eJw=", "zip", "eJw="), (b"x", "no-such-charset", "x"), (b"\xff", "utf-8", "\ufffd")],
)  # fmt: skip
def test_text_is_decoded_by_its_charset_where_that_costs_little(tmp_path: Path, data: bytes, charset: str, text: str) -> None:
    async def main() -> None:
        async with serving(says(data, content_type=f"text/plain; charset={charset}")) as server:
            assert (await Tools(tmp_path, get(server.port))("get", url=f"http://127.0.0.1:{server.port}/")).content == text

    run(main())


def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with serving(says("direct")) as server, serving(says("proxied")) as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            result = await Tools(tmp_path, get(server.port))("get", url=f"http://127.0.0.1:{server.port}/")

            assert result.content == "direct" and not proxy.heard

    run(main())
