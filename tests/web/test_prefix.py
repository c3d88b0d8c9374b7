"""A KV file before a request's prompt, on a real engine: the same tokens as in one prompt, found without computing, by who may."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.dropin.server import MAX_LENGTH, NUM_PAGES, PAGE
from tests.web.key import key
from vllm_symphony.client import connect

pytestmark = pytest.mark.keeps("fds")  # the clients' connections

MODEL = "tiny"
NUMBERS = itertools.count()
QUESTION = list(range(40, 49))
GREEDY: Any = {"temperature": 0.0, "max_tokens": 8, "logprobs": 1, "extra_body": {"ignore_eos": True, "return_token_ids": True}}
MAKE = """from vllm_symphony import lip

async def main(path: str, tokens: list[int], compute: bool, mode: int, edit: bool):
    if edit:
        async with lip.open(tokens=tokens) as source, await source.extract([(0, 8), (16, 24)]) as file:
            await file.link(path)
            return
    async with lip.open(path, tokens=tokens, mode=mode) as file:
        if compute:
            await file.forward()
"""

GROW = """from vllm_symphony import lip

async def main(path: str, tokens: list[int]):
    async with lip.open(path, write=True) as file:
        await file.append(tokens)
"""
DEMOTE = """from vllm_symphony import lip

async def main(path: str):
    async with lip.open(path) as file:
        await file.advise("dontneed", tier="host", wait=True)
"""
PROGRAMS = {"make": MAKE, "grow": GROW, "demote": DEMOTE}


class Person:
    """Somebody with a token and the programs above, by OpenAI's client."""

    def __init__(self, server: Any, name: str) -> None:
        self.name = name
        self.openai = OpenAI(base_url=f"{server.http}/v1", api_key=key(server, name), max_retries=0)

    def file(self, tokens: list[int], *, compute: bool = True, mode: int = 0o644, edit: bool = False) -> str:
        """A new file's path."""
        path = f"/tmp/{self.name}-{next(NUMBERS)}-{time.time_ns()}.kv"
        self.run("make", path=path, tokens=tokens, compute=compute, mode=mode, edit=edit)
        return path

    def run(self, program: str, **args: Any) -> None:
        """Run one of the programs."""
        model = f"lip:ops/{program}"
        self.openai.completions.create(model=model, prompt="", extra_body={"symphony": {"args": args}})

    def ask(self, prompt: list[int] | str, file: str | None = None, **more: Any) -> Any:
        """A greedy completion."""
        said = {**GREEDY, **more}
        said["extra_body"] = {
            **GREEDY["extra_body"],
            **more.get("extra_body", {}),
            **({"symphony": {"file": file}} if file else {}),
        }
        return self.openai.completions.create(model=MODEL, prompt=prompt, **said)


@pytest.fixture(scope="module")
def people(server_b):
    async def install() -> None:
        async with connect(server_b.socket, token=key(server_b, "ops")) as client:
            for name, source in PROGRAMS.items():
                await client.install(source, f"{name}@1")

    asyncio.run(install())
    people = {name: Person(server_b, name) for name in ("ann", "bob", "eve")}
    yield people
    for person in people.values():
        person.openai.close()


@pytest.fixture(autouse=True)
def invariants(server_b) -> Iterator[None]:
    """Those of the kernel, the page table and vLLM's blocks hold after each test."""
    yield
    server_b.probe("check")


@pytest.fixture(scope="module")
def ann(people) -> Person:
    return people["ann"]


@pytest.fixture(scope="module")
def bob(people) -> Person:
    return people["bob"]


def tokens_of(num: int) -> list[int]:
    """New ones, that no other test has before its own."""
    first = next(NUMBERS)
    return [50 + (first * 37 + i * i * 11 + i * 7) % 900 for i in range(num)]


def cached(answer: Any) -> int:
    return answer.usage.prompt_tokens_details.cached_tokens or 0


@pytest.mark.parametrize("num", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 5 * PAGE + 7])
@pytest.mark.parametrize("compute", [True, False])
def test_the_answer_is_that_to_the_whole_prompt(ann, bob, num, compute):
    tokens = tokens_of(num)
    file = ann.file(tokens, compute=compute)

    answers = [who.ask(QUESTION, file) for who in (bob, ann, bob)]
    plain = ann.ask(tokens + QUESTION)

    for answer in answers:
        assert answer.choices[0].token_ids == plain.choices[0].token_ids
        assert answer.choices[0].logprobs.token_logprobs == pytest.approx(plain.choices[0].logprobs.token_logprobs, abs=1e-4)
        assert answer.usage.prompt_tokens == plain.usage.prompt_tokens == num + len(QUESTION)
    for answer in answers[0 if compute else 1 :]:
        assert cached(answer) >= num // PAGE * PAGE


def test_every_way_of_asking_takes_a_file(ann):
    tokens = tokens_of(2 * PAGE)
    extra = {"symphony": {"file": ann.file(tokens)}}
    messages: Any = [{"role": "user", "content": "Where is the lamp?"}]
    create = ann.openai.chat.completions.create
    alone = create(model=MODEL, messages=messages, max_tokens=8, temperature=0.0).usage.prompt_tokens

    chat = create(model=MODEL, messages=messages, max_tokens=8, temperature=0.0, logprobs=True, extra_body=extra)
    streamed = list(create(model=MODEL, messages=messages, max_tokens=8, temperature=0.0, extra_body=extra, stream=True,
                           stream_options={"include_usage": True}))  # fmt: skip
    several = create(model=MODEL, messages=messages, max_tokens=8, temperature=1.0, seed=3, n=2, extra_body=extra)
    schema = {"type": "object", "properties": {"lit": {"type": "boolean"}}, "required": ["lit"]}
    shaped = create(model=MODEL, messages=messages, max_tokens=64, temperature=0.0, extra_body=extra,
                    response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})  # fmt: skip
    response = ann.openai.responses.create(
        model=MODEL, input="Where is the lamp?", max_output_tokens=8, temperature=0.0, extra_body=extra
    )

    assert "".join(p.choices[0].delta.content or "" for p in streamed if p.choices) == chat.choices[0].message.content
    assert response.output_text == chat.choices[0].message.content
    assert len(several.choices) == 2 and '"lit"' in shaped.choices[0].message.content
    for usage in (chat.usage, streamed[-1].usage, several.usage, shaped.usage):
        assert usage.prompt_tokens == alone + len(tokens)
        assert usage.prompt_tokens_details.cached_tokens >= len(tokens)
    assert response.usage.input_tokens == alone + len(tokens)


def test_what_one_asks_over_a_file_is_found_by_nobody_else(people):
    tokens = tokens_of(2 * PAGE)
    file, question = people["ann"].file(tokens), tokens_of(3 * PAGE)
    people["bob"].ask(question, file)

    assert cached(people["bob"].ask(question, file)) >= 4 * PAGE, "he finds it again"
    assert cached(people["eve"].ask(question, file)) == 2 * PAGE, "she finds the file only"
    assert cached(people["ann"].ask(question, file)) == 2 * PAGE, "and so does its owner"
    with OpenAI(base_url=people["ann"].openai.base_url, api_key="none", max_retries=0) as nobody:
        for salt in (None, "ann", "bob"):
            extra = {} if salt is None else {"cache_salt": salt}
            plain = nobody.completions.create(model=MODEL, prompt=tokens + question, max_tokens=1, extra_body=extra)
            assert cached(plain) == 0, "plain requests have a cache of their own, whatever they call it"


def test_a_file_that_one_may_not_read_is_not_told_of(ann, bob):
    hidden = ann.file(tokens_of(PAGE), mode=0o600)

    for file, status, code in [(hidden, 403, "EACCES"), ("/kb/none.kv", 404, "ENOENT"), ("/tmp", 409, "EISDIR"),
                               ("/proc/self/status", 404, "ENOENT")]:  # fmt: skip
        with pytest.raises(openai.APIStatusError) as refused:
            bob.ask(QUESTION, file)
        assert (refused.value.status_code, refused.value.code) == (status, code)


def test_a_file_that_grows_is_taken_as_it_is(ann):
    tokens = tokens_of(PAGE + 3)
    file = ann.file(tokens[:PAGE])
    before = ann.ask(QUESTION, file).usage.prompt_tokens

    ann.run("grow", path=file, tokens=tokens[PAGE:])
    after = ann.ask(QUESTION, file)

    assert after.usage.prompt_tokens == before + 3
    assert after.choices[0].token_ids == ann.ask(tokens + QUESTION).choices[0].token_ids


def test_an_edited_file_is_refused(ann):
    edited = ann.file(tokens_of(2 * PAGE), edit=True)

    with pytest.raises(openai.APIStatusError, match="was edited") as refused:
        ann.ask(QUESTION, edited)

    assert (refused.value.status_code, refused.value.code) == (501, "ENOTSUP")


def test_the_answer_ends_where_the_model_ends(ann):
    file = ann.file(tokens_of(MAX_LENGTH - 20), compute=False)

    answer = ann.ask(QUESTION, file, max_tokens=500)
    assert (answer.usage.total_tokens, answer.choices[0].finish_reason) == (MAX_LENGTH, "length")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="nothing can be answered") as refused:
            ann.ask(list(range(40, 60)), file, stream=stream)
        assert refused.value.code == "EFBIG"


@pytest.mark.parametrize("said", [{"file": 1}, {"file": "/kb/x", "args": {}}, {}, "x", None, {"args": {}}])
def test_a_field_that_says_something_else_is_refused(ann, said):
    with pytest.raises(openai.BadRequestError) as refused:
        ann.ask(QUESTION, extra_body={"symphony": said})

    assert (refused.value.code, refused.value.param) == ("EINVAL", "symphony")


def test_echo_is_refused(ann):
    with pytest.raises(openai.BadRequestError, match="echo"):
        ann.ask(QUESTION, ann.file(tokens_of(PAGE)), echo=True)


def test_pages_below_the_device_come_back_for_a_request(ann):
    tokens = tokens_of(4 * PAGE)
    file = ann.file(tokens)
    ann.run("demote", path=file)
    for first in range(NUM_PAGES * PAGE // 1900 + 1):  # whatever vLLM remembers is given up
        ann.ask([60 + (first * 131 + i * i) % 900 for i in range(1900)], max_tokens=1)

    answer = ann.ask(QUESTION, file)

    assert cached(answer) >= 4 * PAGE
    assert answer.choices[0].token_ids == ann.ask(tokens + QUESTION).choices[0].token_ids
