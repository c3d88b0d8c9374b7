"""Programs as models, by the official client of OpenAI, on the simulated device."""

import json

import openai
import pytest
from openai import OpenAI

from vllm_symphony.abi.calls import Ps

pytestmark = pytest.mark.keeps("fds")  # the client's connections are open until it is closed, and both ends are in this process

HELLO = '''from vllm_symphony import lip

async def main(task: str, times: int = 1, seed: int = 0):
    """Say what it was told."""
    for _ in range(times):
        print(task, end=" ", flush=True)
        await lip.sleep(0.01)
    return "not shown"
'''
RETURNS = """async def main(messages: list, temperature: float = 1.0, stop: list[str] | None = None):
    return {"messages": messages, "temperature": temperature, "stop": stop}
"""
TEXT = "async def main(prompt: str):\n    return prompt.upper()\n"
GENERATES = """from vllm_symphony import lip

async def child():
    async with await lip.open(tokens=[1, 2, 3]) as f:
        async for _ in f.generate(max_tokens=4, ignore_eos=True):
            pass

async def main(prompt: str):
    async with await lip.open(tokens=[1, 2, 3, 4, 5]) as f:
        async for _ in f.generate(max_tokens=6, ignore_eos=True):
            pass
    lip.emit("a")
    lip.emit({"b": 1})
"""
FAILS = """from vllm_symphony import lip

async def main(how: str, first: str = ""):
    print(first, end="", flush=True)
    if first:
        await lip.sleep(0.1)
    if how == "typed":
        await lip.open("/kb/none")
    elif how == "plain":
        1 / 0
    elif how == "exit":
        raise SystemExit(3)
"""
WAITS = """from vllm_symphony import lip

async def main(word: str = ""):
    print(word, end="", flush=True)
    await lip.sleep(600)
"""
SPENDS = """# /// script
# [tool.symphony]
# limits = { wall_s = 0.3 }
# ///
from vllm_symphony import lip

async def main():
    print("so far", end="", flush=True)
    while True:
        try:
            await lip.sleep(600)
        except lip.SymphonyError:
            pass
"""


@pytest.fixture(scope="module")
def client(door, ann):
    with OpenAI(base_url=f"{door.url}/v1", api_key=ann, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def models(door) -> dict[str, str]:
    """Each program above, installed by somebody else for everybody."""
    sources = {"hello": HELLO, "returns": RETURNS, "text": TEXT, "generates": GENERATES, "fails": FAILS, "waits": WAITS,
               "spends": SPENDS}  # fmt: skip
    return {name: door.install(source, name, owner="ops") for name, source in sources.items()}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def chat(client, model: str, text: str = "hello", **more):
    return client.chat.completions.create(model=model, messages=user(text), **more)


def test_what_it_prints_is_the_answer(client, models, door):
    answer = chat(client, models["hello"], "hi", extra_body={"symphony": {"args": {"times": 3}}})

    assert answer.choices[0].message.content == "hi hi hi "
    assert (answer.choices[0].finish_reason, answer.choices[0].message.role, answer.model) == ("stop", "assistant", models["hello"])
    pid = int(answer.id.removeprefix("chatcmpl-lip-"))
    assert (door.process(pid).principal, door.process(pid).program) == ("ann", "ops/hello@1.0")


def test_its_output_is_streamed_as_it_comes(client, models):
    pieces = list(chat(client, models["hello"], "hi", stream=True, stream_options={"include_usage": True},
                       metadata={"times": "3", "ticket": "of the caller's own"}))  # fmt: skip

    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == "hi hi hi "
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-2:] == [None, "stop"]
    assert pieces[-1].usage.total_tokens == 0 and not pieces[-1].choices
    assert len({p.id for p in pieces}) == 1


def test_the_pid_stands_in_the_header_too(client, models):
    raw = client.chat.completions.with_raw_response.create(model=models["text"], messages=user("hi"))

    assert raw.parse().id == f"chatcmpl-lip-{raw.headers['x-symphony-pid']}"


def test_without_output_its_value_is_the_answer(client, models):
    assert chat(client, models["text"], "quiet").choices[0].message.content == "QUIET"
    streamed = chat(client, models["text"], "quiet", stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in streamed) == "QUIET"


def test_parameters_that_it_declares_are_passed(client, models):
    answer = chat(client, models["returns"], "x", temperature=0.25, stop=["."], max_tokens=7, seed=1)

    said = json.loads(answer.choices[0].message.content)
    assert said == {"messages": user("x"), "temperature": 0.25, "stop": ["."]}


def test_completions(client, models):
    whole = client.completions.create(model=models["text"], prompt="abc")
    pieces = list(client.completions.create(model=models["text"], prompt=["abc"], stream=True))

    assert (whole.choices[0].text, whole.choices[0].finish_reason, whole.object) == ("ABC", "stop", "text_completion")
    assert "".join(p.choices[0].text for p in pieces) == "ABC"
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_responses(client, models):
    whole = client.responses.create(model=models["text"], input="abc")
    asked = client.responses.create(model=models["returns"], instructions="Be brief.", input=[{"role": "user", "content": "x"}])

    assert (whole.output_text, whole.status, whole.usage.total_tokens) == ("ABC", "completed", 0)
    assert json.loads(asked.output_text)["messages"] == user("x")


def test_streamed_responses(client, models):
    with client.responses.stream(model=models["hello"], input="hi", metadata={"times": "2"}) as stream:
        events = list(stream)
        final = stream.get_final_response()

    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "hi hi " == final.output_text
    assert [e.type for e in events][:4] == ["response.created", "response.in_progress", "response.output_item.added",
                                            "response.content_part.added"]  # fmt: skip
    assert events[-1].type == "response.completed"


def test_usage_counts_all_its_tokens(client, models):
    answer = chat(client, models["generates"])

    assert answer.choices[0].message.content == 'a{"b": 1}\n'
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)


def test_a_limit_that_is_used_up_is_length(client, models):
    answer = chat(client, models["spends"])

    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("so far", "length")


@pytest.mark.parametrize(("how", "status", "kind", "code"), [
    ("typed", 404, "NoSuchFile", "ENOENT"), ("plain", 500, "SymphonyError", "EIO"), ("exit", 500, "SymphonyError", "EIO"),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_program_that_fails_is_its_error(client, models, how, status, kind, code, stream):
    with pytest.raises(openai.APIStatusError) as failed:
        chat(client, models["fails"], stream=stream, extra_body={"symphony": {"args": {"how": how}}})

    assert (failed.value.status_code, failed.value.type, failed.value.code) == (status, kind, code)
    assert failed.value.response.headers["x-should-retry"] == "false"


def test_a_failure_within_a_stream_is_an_event_of_it(client, models):
    stream = chat(client, models["fails"], stream=True, extra_body={"symphony": {"args": {"how": "typed", "first": "so far"}}})
    said = []

    with pytest.raises(openai.APIError, match="no such file: /kb/none") as failed:
        said += [p.choices[0].delta.content for p in stream]

    assert failed.value.code == "ENOENT"


def test_arguments_that_do_not_fit_are_refused(client, models):
    with pytest.raises(openai.BadRequestError, match="main takes no colour") as refused:
        chat(client, models["hello"], extra_body={"symphony": {"args": {"colour": "red"}}})
    assert refused.value.code == "ENOEXEC"
    with pytest.raises(openai.BadRequestError, match="how"):
        chat(client, models["fails"])


@pytest.mark.parametrize("more", [
    {"n": 2}, {"logprobs": True}, {"logit_bias": {"1": 5}},
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"response_format": {"type": "json_object"}}, {"extra_body": {"symphony": {"file": "/kb/x"}}},
    {"extra_body": {"symphony": {"args": [1]}}}, {"extra_body": {"symphony": "x"}},
])  # fmt: skip
def test_what_would_be_ignored_is_refused(client, models, more):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, models["text"], **more)

    assert refused.value.code == "EINVAL"
    assert refused.value.param == next(iter(more.get("extra_body", more)))


def test_what_means_nothing_is_no_matter(client, models):
    answer = chat(client, models["text"], n=1, logprobs=False, tools=[], response_format={"type": "text"})

    assert answer.choices[0].message.content == "HELLO"


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": "x"}, {"messages": [1]}, {"messages": [{"role": "system"}]},
                                  {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}])  # fmt: skip
def test_messages_that_are_none_are_refused(client, models, body):
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", body={"model": models["text"], **body}, cast_to=object)

    assert refused.value.code == "EINVAL"


def test_names_of_no_program_are_refused(client):
    for name, status, code in [("lip:ops/none", 404, "ENOENT"), ("lip:ops/hello@9", 404, "ENOENT"), ("lip:", 400, "EINVAL"),
                               ("lip:ops/hello@x", 400, "EINVAL"), ("lip:../etc", 404, "ENOENT")]:  # fmt: skip
        with pytest.raises(openai.APIStatusError) as refused:
            chat(client, name)
        assert (refused.value.status_code, refused.value.code) == (status, code), name


def test_the_newest_version_that_one_may_run_is_meant(client, door):
    for version, mode in [("1.0", 0o755), ("1.10", 0o755), ("1.9", 0o755), ("2.0", 0o700), ("3.0rc1", 0o755)]:
        source = f"async def main():\n    return {version!r}\n"
        door.install(source, "newest", version, owner="ops", mode=mode)

    assert chat(client, "lip:ops/newest").choices[0].message.content == "1.10"
    assert chat(client, "lip:ops/newest@3.0rc1").choices[0].message.content == "3.0rc1"
    assert chat(client, "lip:ops/newest@1.0.0").choices[0].message.content == "1.0"
    with pytest.raises(openai.NotFoundError):  # who may not see it is not told that it is there
        chat(client, "lip:ops/newest@2.0")


def test_a_program_that_may_be_run_and_not_read_runs(client, door):
    door.install(TEXT, "secretive", owner="ops", mode=0o711)

    assert chat(client, "lip:ops/secretive", "x").choices[0].message.content == "X"


def test_without_scope_run_nothing_runs(door, models):
    with OpenAI(base_url=f"{door.url}/v1", api_key=door.token("reader", scopes=()), max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError, match="scope"):
            chat(client, models["text"])
        assert [m.id for m in client.models.list()] == ["tiny"]


def test_who_hangs_up_ends_the_program(client, models, door):
    stream = chat(client, models["waits"], stream=True, extra_body={"symphony": {"args": {"word": "hello"}}})
    pid = int(next(iter(stream)).id.removeprefix("chatcmpl-lip-"))
    assert door.process(pid).state == "running"

    stream.close()

    assert door.ended(pid).reason == "cancelled"


def test_who_does_not_wait_for_a_whole_answer_ends_the_program(client, models, door):
    before = {p.pid for p in door.call("ps", Ps()).processes}
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.5), models["waits"])

    (pid,) = {p.pid for p in door.call("ps", Ps()).processes if p.name == "ops/waits"} - before
    assert door.ended(pid).reason == "cancelled"


def test_a_token_that_is_revoked_ends_its_program(door, models):
    with OpenAI(base_url=f"{door.url}/v1", api_key=door.token("passing"), max_retries=0) as client:
        stream = chat(client, models["waits"], stream=True, extra_body={"symphony": {"args": {"word": "hello"}}})
        pieces = iter(stream)
        pid = int(next(pieces).id.removeprefix("chatcmpl-lip-"))

        door.tokens.revoke("passing")

        with pytest.raises(openai.APIError, match="was revoked"):
            list(pieces)
    assert door.ended(pid).reason == "cancelled"


def test_models_lists_what_one_may_run(client, door, models):
    door.install(TEXT, "private", owner="ops", mode=0o700)

    listed = {m.id: m for m in client.models.list()}

    assert listed["tiny"].owned_by == "vllm"
    assert listed[models["text"]].owned_by == "ops"
    assert "lip:ops/private@1.0" not in listed
    with OpenAI(base_url=f"{door.url}/v1", api_key="none") as plain:
        assert [m.id for m in plain.models.list()] == ["tiny"]
