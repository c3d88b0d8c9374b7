"""The door: who may ask for what, and that plain requests pass as they came."""

import http.client
import json
import socket
import time

import httpx
import pytest

from vllm_symphony.edge.token import make

CHAT = "/v1/chat/completions"
PLAIN = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}
OURS = ({"model": "lip:ann/x@1.0", "messages": []}, {**PLAIN, "symphony": {"file": "/kb/x.kv"}})


def post(door, path: str = CHAT, body: object = PLAIN, token: str | None = None, **headers: str) -> httpx.Response:
    if token:
        headers["authorization"] = f"Bearer {token}"
    return httpx.post(door.url + path, json=body, headers=headers)


def reason(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_a_plain_request_reaches_the_server_byte_by_byte(door):
    body = b'{ "model":"tiny",\n"messages": [{"role":"user","content":"the \\"symphony\\" and \\"lip:x\\""}] }'
    pieces = [body[:10], body[10:40], body[40:]]

    whole = httpx.post(door.url + CHAT, content=body)
    split = httpx.post(door.url + CHAT, content=iter(pieces))

    assert whole.json() == split.json() == {"plain": len(body)}
    assert [seen["body"] for seen in door.plain.seen[-2:]] == [body, body]


@pytest.mark.parametrize("body", [b"", b"{", b'"lip:', b'{"model": "lip:', b'["symphony"]', b"[" * 100_000 + b'"symphony"'])
def test_a_body_that_is_no_request_is_the_servers_to_refuse(door, body):
    assert httpx.post(door.url + CHAT, content=body).json() == {"plain": len(body)}


def test_the_words_in_a_plain_text_do_not_make_it_ours(door):
    body = {**PLAIN, "messages": [{"role": "user", "content": "symphony"}], "user": "lip:nobody"}

    assert post(door, body=body).status_code == 200


@pytest.mark.parametrize("bearer", [None, "sk-plain", "sym_", "symphony"])
@pytest.mark.parametrize("body", OURS)
def test_without_a_principal_programs_and_files_are_refused(door, body, bearer):
    refused = post(door, body=body, token=bearer)

    assert reason(refused) == (401, "UNAUTHENTICATED")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/symphony/who", CHAT])
def test_a_token_that_is_not_known_is_refused_on_every_route(door, path):
    _, stranger = make("stranger", "stranger", now_s=time.time())
    method = "POST" if path == CHAT else "GET"

    refused = httpx.request(method, door.url + path, json=PLAIN, headers={"authorization": f"Bearer {stranger}"})

    assert reason(refused) == (401, "UNAUTHENTICATED")
    assert stranger not in refused.text


def test_an_expired_and_a_revoked_token_are_refused(door):
    expired = door.token("expired", expires_s=time.time() - 1)
    revoked = door.token("revoked")
    assert post(door, token=revoked).status_code == 200
    door.tokens.revoke("revoked")

    assert "has expired" in post(door, token=expired).json()["error"]["message"]
    assert reason(post(door, token=revoked)) == (401, "UNAUTHENTICATED")


def test_a_token_where_none_is_read_is_refused(door, ann):
    for header in ("x-api-key", "cookie", "x-forwarded"):
        assert reason(post(door, **{header: f"a {ann}"})) == (401, "UNAUTHENTICATED")


def test_a_principal_gets_plain_openai_too(door, ann):
    assert post(door, token=ann).json() == {"plain": len(json.dumps(PLAIN, separators=(",", ":")))}


def test_our_routes_know_who_asks(door, ann):
    asked = httpx.get(door.url + "/symphony/who", headers={"authorization": f"Bearer {ann}"})
    nobody = httpx.get(door.url + "/symphony/who")

    assert asked.json() == {"who": "ann"}
    assert reason(nobody) == (401, "UNAUTHENTICATED")
    assert httpx.get(door.url + "/symphony/").text == "a page", "it shows nothing of anybody"


@pytest.mark.parametrize("headers", [
    {"host": "rebound.example"}, {"host": "rebound.example:80"}, {"host": "127.0.0.1.nip.example"}, {"host": ""},
    {"origin": "http://elsewhere.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
])  # fmt: skip
def test_what_is_ours_asks_whose_page_it_comes_from(door, ann, headers):
    to_us = httpx.get(door.url + "/symphony/who", headers={"authorization": f"Bearer {ann}", **headers})

    assert reason(to_us) == (403, "EACCES")
    assert reason(post(door, body=OURS[1], token=ann, **headers)) == (403, "EACCES")
    assert post(door, **headers).status_code == 200, "plain requests go on as with vLLM alone"


def test_the_own_origin_is_let_in(door, ann):
    for host in (f"127.0.0.1:{door.port}", f"localhost:{door.port}"):
        headers = {"authorization": f"Bearer {ann}", "host": host, "origin": f"http://{host}"}
        assert httpx.get(door.url + "/symphony/who", headers=headers).json() == {"who": "ann"}


def test_the_server_sees_its_own_key_in_place_of_a_token(keyed_door, ann):
    assert post(keyed_door, token=ann).status_code == 200
    assert keyed_door.plain.seen[-1]["authorization"] == "Bearer the-server's-own"

    post(keyed_door, token="another")
    assert keyed_door.plain.seen[-1]["authorization"] == "Bearer another", "it is the server that refuses it"


def test_streams_and_hang_ups_pass(door):
    door.plain.gone.clear()
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=10)
    connection.request("GET", "/slow")
    answer = connection.getresponse()
    assert answer.read(8) == b"data: {}"

    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()

    assert door.plain.gone.wait(10)


def test_a_stream_of_a_revoked_token_ends_with_the_error(door):
    token = door.token("short-lived")
    with httpx.stream("GET", door.url + "/slow", headers={"authorization": f"Bearer {token}"}, timeout=10) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "data: {}"
        door.tokens.revoke("short-lived")
        said = [line for line in lines if line not in ("", "data: {}")]

    assert json.loads(said[0].removeprefix("data: "))["error"]["code"] == "UNAUTHENTICATED"
    assert said[1:] == ["data: [DONE]"]
