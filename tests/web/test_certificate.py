"""A client certificate at the HTTP door: its common name is the principal, where no token says otherwise."""

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from vllm_symphony.edge.audit import Audit, files
from vllm_symphony.edge.credentials import caller
from vllm_symphony.edge.identity import Identity
from vllm_symphony.edge.kernel_link import KernelLink
from vllm_symphony.edge.meter import DOORS
from vllm_symphony.edge.rate import Rates, limits_of
from vllm_symphony.edge.token import make
from vllm_symphony.edge.token_file import TokenFile
from vllm_symphony.errors import Unauthenticated
from vllm_symphony.web.connection import NAME
from vllm_symphony.web.door import Door


async def who(scope: Any, receive: Any, send: Any) -> None:
    """An app that says who asks, or nobody."""
    try:
        name = caller(scope).principal.encode()
    except Unauthenticated:
        name = b"nobody"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": name})


def ask(door: Door, name: str | None, path: str = "/symphony/who", **headers: str) -> tuple[int, bytes]:
    """Status and body of a request whose connection has shown this certificate."""
    given = {"host": "localhost"} | headers
    scope = {"type": "http", "method": "GET", "path": path, "client": ("10.0.0.7", 5), "server": ("10.0.0.1", 8000),
             "headers": [(k.encode(), v.encode()) for k, v in given.items()]}  # fmt: skip
    scope |= {"extensions": {NAME: {"name": name}}} if name is not None else {}
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    asyncio.run(door(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture
def tokens(tmp_path) -> TokenFile:
    return TokenFile(tmp_path)


@pytest.fixture
def door(tmp_path, tokens) -> Iterator[Door]:
    rates, audit = Rates(limits_of(["hasty=1/h"])), Audit(tmp_path)
    yield Door(who, link=KernelLink(""), identity=Identity(tokens), rates=rates, audit=audit)
    audit.close()


def test_its_common_name_is_the_principal_and_a_token_goes_before_it(door, tokens):
    token, text = make("t", "bob", now_s=time.time())
    tokens.add(token)

    assert ask(door, "alice") == (200, b"alice")
    assert ask(door, "alice", authorization=f"Bearer {text}") == (200, b"bob")
    assert ask(door, None)[0] == 401


@pytest.mark.parametrize("name", ["", "no name", "x" * 65, "../root", "a\nb"])
def test_what_is_no_name_of_a_principal_is_nobody_and_recorded(door, tmp_path, name):
    before = DOORS.refused.get(("http", "token"), 0)

    assert ask(door, name)[0] == 401
    (line,) = [json.loads(text) for path in files(tmp_path) for text in path.read_text().splitlines()]
    assert (line["door"], line["principal"], line["target"], line["outcome"]) == ("http", "-", "/symphony/who", "UNAUTHENTICATED")
    assert line["peer"] == "10.0.0.7:5" and DOORS.refused[("http", "token")] == before + 1


def test_its_principal_is_counted_as_any(door):
    assert ask(door, "hasty")[0] == 200
    assert ask(door, "hasty")[0] == 429
