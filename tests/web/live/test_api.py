"""What the live page asks: who may, what it is told, and what a wrong question is answered."""

import httpx
import pytest

from tests.web.live.conftest import PARENT, Site, until
from vllm_symphony.abi.calls import Kill, Mkdir, Open
from vllm_symphony.abi.types import Credentials, OpenFlags, pack_tokens
from vllm_symphony.edge.credentials import OWN

GETS = ("ps", "files", "capacity", "info", "why/1", "logs/1", "stream")
STATIC = ("live.css", "main.js", "link.js", "icon.svg")


def reason(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def make_file(site, cred: Credentials, folder: str, name: str, mode: int = 0o600) -> str:
    site.call("mkdir", Mkdir(folder, 0o777, parents=True), OWN)
    path = f"{folder}/{name}"
    site.call("open", Open(path, pack_tokens(range(1, 40)), OpenFlags.CREAT | OpenFlags.RDWR, mode), cred)
    return path


@pytest.mark.parametrize("path", ["", *(f"static/{name}" for name in STATIC)])
def test_the_page_is_everybodys_and_trusts_nothing_but_itself(site, path):
    answer = site.ask(path)

    policy = answer.headers["content-security-policy"]
    assert answer.status_code == 200
    assert answer.headers["x-frame-options"] == "DENY" and answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert "script-src 'self';" in policy and "require-trusted-types-for 'script'" in policy


def test_the_page_needs_nothing_from_elsewhere_and_no_script_stands_in_it(site):
    page = site.ask("").text

    assert "<script>" not in page and " style=" not in page and "onclick" not in page
    assert "//" not in page.replace("<!doctype html>", "")


def test_a_file_that_the_browser_has_is_not_sent_again(site):
    first = site.ask("static/main.js")

    again = site.ask("static/main.js", headers={"If-None-Match": first.headers["etag"]})

    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path", ["static/", "static/page.py", "static/../page.py", "static/%2e%2e/page.py", "page.py", "api/", "api/x"]
)
def test_nothing_else_of_the_package_is_served(site, root, path):
    assert site.ask(path, root.token).status_code == 404


def test_without_the_last_slash_one_is_sent_to_the_page(site):
    answer = httpx.get(f"{site.url}/symphony")

    assert (answer.status_code, answer.headers["location"]) == (308, "/symphony/")


@pytest.mark.parametrize("path", GETS)
def test_without_a_token_the_api_says_nothing(site, path):
    assert reason(site.ask(f"api/{path}")) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("path", GETS)
def test_a_wrong_token_says_nothing_either(site, root, path):
    assert reason(site.ask(f"api/{path}", root.token[:-4] + "0000")) == (401, "UNAUTHENTICATED")


def test_a_token_in_the_address_is_no_token(site, root):
    assert reason(site.ask(f"api/ps?token={root.token}")) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}])
@pytest.mark.parametrize("path", ["", "api/ps"])
def test_another_sites_page_gets_nothing(site, root, path, headers):
    assert reason(site.ask(path, root.token, headers=headers)) == (403, "EACCES")


def test_answers_are_kept_by_nobody(site, root):
    answer = site.ask("api/ps", root.token)

    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"


def test_each_sees_its_own_processes_and_admin_all(site, root, alice, start):
    mine, hers = start(), start(cred=alice.cred)

    def seen(who) -> set[int]:
        return {p["pid"] for p in site.ask("api/ps", who.token).json()["processes"]}

    assert mine in seen(root) and hers in seen(root)
    assert mine not in seen(alice) and hers in seen(alice)


@pytest.mark.parametrize("path", ["why/{}", "logs/{}", "logs/{}?follow=1"])
def test_anothers_process_does_not_exist(site, alice, start, path):
    assert reason(site.ask(f"api/{path.format(start())}", alice.token)) == (404, "ESRCH")


def test_anothers_process_takes_no_signal(site, alice, start):
    pid = start()

    assert reason(site.kill(pid, "KILL", alice.token)) == (404, "ESRCH")
    assert site.process(pid).exit is None


def test_ones_own_process_takes_signals(site, alice, start):
    pid = start(cred=alice.cred)

    assert site.kill(pid, "STOP", alice.token).json() == {"pid": pid, "signal": "STOP"}
    until(lambda: site.process(pid).state == "stopped")
    assert site.kill(pid, "CONT", alice.token).status_code == 200
    until(lambda: site.process(pid).state == "running")
    assert site.kill(pid, "KILL", alice.token).status_code == 200
    assert until(lambda: site.process(pid).exit).code == 137


def test_a_signal_is_recorded_with_how_it_ended(site, alice, start):
    mine, hers = start(), start(cred=alice.cred)

    site.kill(mine, "KILL", alice.token)
    site.kill(hers, "KILL", alice.token)

    lines = [line for line in site.lines("kill") if line["door"] == "http" and line["target"] in (str(mine), str(hers))]
    assert [(line["principal"], line["target"], line["outcome"]) for line in lines] == [
        ("alice", str(mine), "ESRCH"), ("alice", str(hers), "OK")
    ]  # fmt: skip
    assert all(line["token"] in alice.token and line["peer"].startswith("127.0.0.1:") for line in lines)


def test_an_admins_look_is_recorded_once_however_often_the_page_asks(site, root, alice, start):
    pid, hers = start(), start(cred=alice.cred)

    for _ in range(3):
        site.ask(f"api/why/{pid}", root.token)
        site.ask(f"api/why/{hers}", alice.token)

    assert [line["outcome"] for line in site.lines("why") if line["target"] == str(pid)] == ["begun"]
    assert [line for line in site.lines("why") if line["target"] == str(hers)] == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"pid": "7"}', b'{"pid": true}', b'{"pid": 0}', b'{"pid": 1, "signal": 9}',
             b'{"pid": 1e400}', b"[" * 4000, b'{"pid": 9007199254740993}', b" " * 5000, b'{"pid": 1, "signal": "HUP"}']
)  # fmt: skip
def test_a_signal_that_is_none_is_refused(site, root, body):
    assert reason(site.ask("api/kill", root.token, method="POST", content=body)) == (400, "EINVAL")


@pytest.mark.parametrize(
    "path", ["why/0", "why/x", "why/-1", "why/1e3", "why/٣", "why/99999999999999999999", "logs/1?from_seq=0", "files?limit=0",
             "files?limit=501", "files?limit=x"]
)  # fmt: skip
def test_a_number_that_is_none_is_refused(site, root, path):
    assert reason(site.ask(f"api/{path}", root.token)) == (400, "EINVAL")


@pytest.mark.parametrize(("method", "path"), [("POST", "ps"), ("GET", "kill"), ("DELETE", "files"), ("POST", "stream")])
def test_a_method_that_does_not_fit_is_refused(site, root, method, path):
    assert site.ask(f"api/{path}", root.token, method=method).status_code == 405


def test_files_are_listed_as_far_as_one_may_read_them(site, root, alice):
    closed = make_file(site, root.cred, "/live-files", "closed.kv")
    read = make_file(site, root.cred, "/live-files", "open.kv", 0o644)

    def seen(who) -> dict[str, dict]:
        return {f["path"]: f for f in site.ask("api/files?path=/live-files", who.token).json()["files"]}

    assert set(seen(root)) == {closed, read}
    assert set(seen(alice)) == {read}
    assert seen(root)[closed]["length"] == 39 and {"device_pages", "host_pages", "disk_pages"} <= set(seen(root)[closed])


def test_a_list_of_files_is_cut_and_says_how_many_there_are(site, root):
    for i in range(4):
        make_file(site, root.cred, "/live-many", f"{i}.kv")

    told = site.ask("api/files?path=/live-many&limit=3", root.token).json()

    assert (len(told["files"]), told["total"]) == (3, 4)


def test_files_below_what_is_not_there_are_an_error_with_its_name(site, root):
    assert reason(site.ask("api/files?path=/no/such/place", root.token)) == (404, "ENOENT")


def test_info_says_who_is_asking_and_capacity_how_much_there_is(site, alice):
    info, room = site.ask("api/info", alice.token).json(), site.ask("api/capacity", alice.token).json()

    assert info["principal"] == "alice" and "admin" not in info["scopes"]
    assert info["model"]["name"] == "sim" and info["server"]["kernel"]["calls_ended"] > 0
    assert 0 < room["device_pages_free"] <= room["device_pages"] and room["quota"]["principal"] == "alice"


def test_what_a_process_printed_is_there_once_it_has_ended(site, root, start):
    pid = start('def main():\n    print("one")\n    print("<b>two</b>")\n')
    until(lambda: site.process(pid).exit)

    events = site.ask(f"api/logs/{pid}", root.token).json()["events"]
    later = site.ask(f"api/logs/{pid}?from_seq={events[-1]['seq']}", root.token).json()["events"]

    assert "".join(e["text"] for e in events if e["kind"] == "stdout").split() == ["one", "<b>two</b>"]
    assert later == events[-1:]


def test_output_is_followed_until_the_process_ends(site, root, start):
    pid = start()

    with site.events(f"api/logs/{pid}?follow=1", root.token) as events:
        kinds = []
        for kind, data in events:
            kinds.append(kind)
            if kind == "events" and any(e["kind"] == "emit" for e in data):
                site.call("kill", Kill(pid, "KILL"))
            if kind == "events" and any(e["kind"] == "exit" for e in data):
                break
        rest = [kind for kind, _ in events]

    assert set(kinds) == {"events"} and rest == ["end"]


def test_why_says_what_each_thread_waits_for(site, root, start):
    pid = start(PARENT)

    threads = until(lambda: [t for t in site.ask(f"api/why/{pid}", root.token).json()["threads"] if t["op"] == "sleep"])

    assert threads[0]["cause"] == "timer"


def test_the_stream_tells_of_processes_steps_and_calls(site, root, start):
    pid = start()

    with site.events("api/stream", root.token) as events:
        kind, glance = next(events)
        assert kind == "glance" and glance["room"]["device_pages"] > 0
        ops, steps = set(), []
        while "generate" not in ops or not steps:
            kind, data = next(events)
            if kind == "news":
                ops |= set(data["ops"])
                steps += data["steps"]
            else:
                glance = data

    assert pid in {p["pid"] for p in glance["processes"]}
    assert all(len(step) == 6 and step[3] >= 1 and step[5] >= 1 for step in steps)
    assert [step[0] for step in steps] == sorted(step[0] for step in steps)


def test_a_stream_tells_of_ones_own_calls_only(site, root, alice, start):
    mine, hers = start(), start(cred=alice.cred)

    pids: set[int] = set()
    with site.events("api/stream", alice.token) as events:
        while hers not in pids:
            kind, data = next(events)
            pids |= {call["pid"] for call in data["calls"]} if kind == "news" else {p["pid"] for p in data["processes"]}
            pids |= {call["pid"] for call in data["errors"]} if kind == "news" else set()
        for _ in range(4):
            kind, data = next(events)
            pids |= {call["pid"] for call in data["calls"]} if kind == "news" else {p["pid"] for p in data["processes"]}

    assert mine not in pids


def test_a_page_does_not_show_its_own_looking(site, root, start):
    start()

    with site.events("api/stream", root.token) as events:
        ops = [op for _, data in (next(events) for _ in range(12)) for op in data.get("ops", ())]

    assert "generate" in ops and not {"ps", "statfs", "info", "strace"} & set(ops)


def test_a_page_that_goes_leaves_nothing_in_the_kernel(site, root):
    def tracers() -> int:
        return site.ask("api/info", root.token).json()["server"]["kernel"]["tracers"]

    with site.events("api/stream", root.token) as events:
        next(events)
        until(lambda: tracers() == 1)

    until(lambda: tracers() == 0)


def test_a_token_that_is_revoked_ends_its_stream(site, alice):
    token = site.token("live-short", "alice")

    with site.events("api/stream", token) as events:
        next(events)
        site.tokens.revoke("live-short")
        last = None
        for kind, data in _readable(events):
            last = kind, data

    assert last is not None and last[0] == "message" and last[1]["error"]["code"] == "UNAUTHENTICATED"
    assert reason(site.ask("api/stream", token)) == (401, "UNAUTHENTICATED")


def _readable(events):
    """Until what is no JSON: the door's last word has the form of OpenAI's streams."""
    try:
        yield from events
    except ValueError:
        return


def test_a_server_that_stops_ends_its_streams_first(sim_server):
    site = Site(sim_server)
    site.start()
    token = site.token("live-stopping", OWN.principal, scopes=("admin",))

    with site.events("api/stream", token) as events:
        next(events)
        site.stop()
        kinds = [kind for kind, _ in events]

    assert kinds[-1] == "end"
    assert not site._thread.is_alive()


def test_a_kernel_that_is_lost_is_said_and_asked_for_is_503(fresh_server):
    server = fresh_server("--device", "sim")
    site = Site(server)
    site.start()
    token = site.token("live-lost", OWN.principal, scopes=("admin",))

    with site.events("api/stream", token) as events:
        next(events)
        server.stop()
        end = [data for kind, data in events if kind == "end"]

    assert end[0]["error"]["code"] == "ENODEV"
    assert reason(site.ask("api/ps", token)) == reason(site.ask("api/stream", token)) == (503, "ENODEV")
    site.stop()


def test_before_there_is_a_kernel_one_is_told_to_come_again(site, root, monkeypatch):
    monkeypatch.setattr(site.link, "_socket", None)

    assert reason(site.ask("api/stream", root.token)) == (503, "EAGAIN")
    assert site.ask("api/ps", root.token).headers["retry-after"] == "1"
