"""Texts and grammars that nobody should send: the simulator refuses them and goes on, as the engine's own text worker does."""

import json

import pytest

from tests.conformance.host import ServerHost
from vllm_symphony.abi.calls import Generate, NoArgs, Open, ParseTools, RenderChat
from vllm_symphony.abi.types import Grammar, pack_tokens
from vllm_symphony.errors import InvalidArgument, NotSupported

DEEP = "[" * 2000 + "]" * 2000
MESSAGES = [DEEP, '[{"role": ["user"]}]', '[{"role": "user", "content": "\\ud800"}]', "[1]", "{}", "[]"]
GRAMMARS = [
    ("regex", "a{99999999999999999999}"), ("regex", "(" * 500 + ")" * 500), ("regex", "[z-a]"), ("json", '{"type": 5}'),
    ("json", '{"type": "object", "properties": 5}'), ("json", '{"enum": 5}'), ("json", '{"type": "array", "items": []}'),
    ("json", '{"anyOf": [' * 300 + "{}" + "]}" * 300), ("choice", json.dumps(["a" * 5000])),
]  # fmt: skip


@pytest.fixture
def client(host: ServerHost):
    host.begin()
    yield host.client
    host.client.ask("ping", NoArgs())
    host.client.close()


@pytest.mark.parametrize("messages", MESSAGES, ids=range(len(MESSAGES)))
def test_messages_that_are_none_are_refused(client, messages):
    with pytest.raises(InvalidArgument):
        client.ask("render_chat", RenderChat(messages))


def test_tool_calls_nested_without_end_are_no_tool_calls(client):
    text = f'<tool_call>{{"name": {DEEP}}}</tool_call>'

    assert json.loads(client.ask("parse_tools", ParseTools(text, parser="hermes")).json) == {"content": text, "tool_calls": []}


@pytest.mark.parametrize(("kind", "text"), GRAMMARS, ids=range(len(GRAMMARS)))
def test_grammars_that_do_not_compile_are_refused(client, kind, text):
    fd = client.ask("open", Open(tokens=pack_tokens([1]))).fd

    with pytest.raises((InvalidArgument, NotSupported)):
        client.ask("generate", Generate(fd, max_tokens=2, grammar=Grammar(kind, text)))
