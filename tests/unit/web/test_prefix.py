"""What is put before a prompt, and before which: vLLM's renderer stands in small."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from vllm_symphony.abi.types import Ino
from vllm_symphony.engine import salt
from vllm_symphony.errors import BadFile, ContextTooLong, InvalidArgument, NotSupported
from vllm_symphony.web import prefix
from vllm_symphony.web.prefix import PREFIX, Prefix, Renderer

BOS = 1
FILE = [5, 6, 7]
INO = Ino(9)


class Tokenizer:
    """One that begins each text with BOS, or not; it has one in either case, as SmolLM's."""

    bos_token_id = BOS

    def __init__(self, *, begins: bool) -> None:
        self._begins = begins

    def encode(self, text: str) -> list[int]:
        return [BOS] if self._begins else []


@dataclass(frozen=True)
class Rendered:
    engine_input: Any


class Inner:
    """Gives the prompt that the request holds."""

    def __init__(self, *, begins: bool = False) -> None:
        self.renderer = SimpleNamespace(tokenizer=Tokenizer(begins=begins))
        self.use_harmony = False

    async def render_chat(self, request: Any) -> Any:
        return request.refusal or (["said"], [request.prompt])

    async def render_completion(self, request: Any) -> Any:
        return request.refusal or [request.prompt, request.prompt]

    async def render_responses(self, request: Any, **more: Any) -> Any:
        return request.refusal or Rendered(request.prompt)


def renderer(*, begins: bool = False, secret: str | None = "secret") -> Renderer:
    config = SimpleNamespace(max_model_len=16, get_vocab_size=lambda: 100)
    return Renderer(Inner(begins=begins), SimpleNamespace(lora_requests={"adapter": None}), config, secret)


def request(tokens: list[int], **more: Any) -> Any:
    prompt = {
        "type": "token",
        "prompt_token_ids": tokens,
        "prompt": "text",
        "prompt_token_offsets": [(0, 1)],
        **more.pop("prompt", {}),
    }
    return SimpleNamespace(**{"model": "base", "refusal": None, "prompt": prompt, **more})


def rendered(made: Renderer, asked: Any, file: list[int] | None = FILE) -> Any:
    """The prompt of a chat over the file."""

    async def main() -> Any:
        PREFIX.set(None if file is None else Prefix("/kb/x", file, INO, "ann", "bob"))
        return await made.render_chat(asked)

    return asyncio.run(main())[1][0]


def test_the_file_stands_before_the_prompt():
    prompt = rendered(renderer(), request([8, 9]))

    assert prompt == {
        "type": "token",
        "prompt": "text",
        "prompt_token_ids": [*FILE, 8, 9],
        "cache_salt": salt.asked("secret", INO, "ann", 3, "bob"),
    }


def test_each_way_of_asking_is_served():
    async def main() -> Any:
        PREFIX.set(Prefix("/kb/x", FILE, INO, "ann", "bob"))
        made, asked = renderer(), request([8])
        many = await made.render_completion(asked)
        one = await made.render_responses(asked, previous_messages=None)
        return [p["prompt_token_ids"] for p in (*many, one.engine_input)]

    assert asyncio.run(main()) == [[*FILE, 8]] * 3


def test_without_a_file_all_is_vllms_own():
    asked = request([8, 9])

    assert rendered(renderer(), asked, None) is asked.prompt
    assert renderer().use_harmony is False


def test_what_vllm_refuses_stays_refused():
    async def main() -> Any:
        PREFIX.set(Prefix("/kb/x", FILE, INO, "ann", "bob"))
        made, asked = renderer(), request([8], refusal="no")
        return [await made.render_chat(asked), await made.render_completion(asked), await made.render_responses(asked)]

    assert asyncio.run(main()) == ["no"] * 3


@pytest.mark.parametrize(("begins", "file", "own", "whole"), [
    (True, [BOS, 5], [BOS, 8], [BOS, 5, 8]),
    (True, [5], [BOS, 8], [5, BOS, 8]),
    (True, [BOS, 5], [8], [BOS, 5, 8]),
    (True, [BOS, 5], [BOS, BOS, 8], [BOS, 5, BOS, 8]),
    (False, [BOS, 5], [BOS, 8], [BOS, 5, BOS, 8]),
])  # fmt: skip
def test_a_text_begins_once(begins, file, own, whole):
    assert rendered(renderer(begins=begins), request(own), file)["prompt_token_ids"] == whole


@pytest.mark.parametrize(("asked", "file", "error"), [
    (request([8], model="adapter"), FILE, NotSupported),
    (request([8], echo=True), FILE, InvalidArgument),
    (request([8], prompt={"type": "multimodal"}), FILE, NotSupported),
    (request([8]), [5, 100], BadFile),
    (request([8] * 13), FILE, ContextTooLong),
])  # fmt: skip
def test_what_cannot_have_a_file_is_refused(asked, file, error):
    with pytest.raises(error):
        rendered(renderer(), asked, file)


def test_one_token_less_than_the_model_holds_is_taken():
    assert len(rendered(renderer(), request([8] * 12))["prompt_token_ids"]) == 15


def test_a_salt_of_ones_own_keeps_the_rest_apart():
    own = rendered(renderer(), request([8], prompt={"cache_salt": "mine"}))["cache_salt"]

    assert own == salt.asked("secret", INO, "ann", 3, "bob mine")


def test_without_the_engines_secret_nothing_is_shared():
    one, other = renderer(secret=None), renderer(secret=None)

    assert len({rendered(made, request([8]))["cache_salt"] for made in (one, one, other)}) == 2


def test_it_stands_before_the_servings_that_there_are():
    def serving() -> Any:
        return SimpleNamespace(online_renderer=Inner(), models=SimpleNamespace(lora_requests={}), model_config=None)

    state = SimpleNamespace(openai_serving_chat=serving(), openai_serving_completion=None, openai_serving_responses=serving())

    prefix.install(state, "secret")

    assert isinstance(state.openai_serving_chat.online_renderer, Renderer)
    assert isinstance(state.openai_serving_responses.online_renderer, Renderer)
    assert state.openai_serving_completion is None
