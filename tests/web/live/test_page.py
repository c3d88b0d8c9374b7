"""The live page in a browser: what one sees of a machine at work, and that nothing a program says becomes more than text."""

from collections.abc import Iterator
from contextlib import suppress

import pytest
from selenium.common.exceptions import ElementNotInteractableException

from tests.web.live import browser
from tests.web.live.browser import ENTER, ESCAPE, LEFT, Page
from tests.web.live.conftest import PARENT, TALKER, Site, until
from vllm_symphony.abi.calls import Advise, Kill, Mkdir, Open
from vllm_symphony.abi.types import OpenFlags, pack_tokens

pytestmark = [
    pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason=browser.MISSING),
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(180),
]

COLOURS = """
const c = document.querySelector('#timeline'), d = c.getContext('2d').getImageData(40, 0, c.width - 40, c.height).data;
const found = new Set();
for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255) found.add(`${d[i]},${d[i + 1]},${d[i + 2]}`);
return found.size;
"""
LOOKS_FOR_NOTHING = """
from vllm_symphony import lip

async def main():
    while True:
        try:
            await lip.stat("/no/such")
        except lip.NoSuchFile:
            await lip.sleep(0.05)
"""
MARKUP = "<img src=x onerror=window.pwned=1><script>window.pwned=1</script>"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[object]:
    driver = browser.launch(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium, site) -> Iterator[Page]:
    """Not opened yet. At the end: no error on the console, nothing that the policy had to refuse."""
    page = Page(chromium, site.url)
    page.complaints()
    yield page
    complaints, pwned = page.complaints(), page.run("return window.pwned ?? null")
    page.close()
    assert (complaints, pwned) == ([], None)


def test_the_tree_shows_who_spawned_whom(page, root, start, site):
    pid = start(PARENT, name="grandparent")
    page.open(root.token)

    child = page.until(lambda: next((p for p in page.rows("#processes") if "└─" in p[0] or "├─" in p[0]), None))
    rows = [row[0] for row in page.rows("#processes")]

    at = rows.index(next(r for r in rows if r.endswith(f"{pid} grandparent")))
    assert f"child of {pid}:" in rows[at + 1] and child[1] == "running"
    assert page.process(pid)[1] == "running" and page.process(pid)[9] == "sleep"


def test_a_process_that_begins_and_ends_does_so_on_the_page(page, root, start, site):
    page.open(root.token)

    pid = start()
    page.until(lambda: page.process(pid), "it is there")
    site.call("kill", Kill(pid, "KILL"))

    page.until(lambda: page.process(pid)[1] == "exit 137 (signal)", "it has ended")


def test_ended_processes_can_be_left_out_and_others_be_looked_for(page, root, start, site):
    ended, running = start("def main(): pass", name="short"), start(name="long-lived")
    until(lambda: site.process(ended).exit)
    page.open(root.token)
    page.until(lambda: page.process(ended) and page.process(running))

    page.find("#processes-ended").click()
    page.until(lambda: page.process(running) and not page.process(ended))
    page.find("#processes-ended").click()
    page.find("#processes-filter").send_keys("SHORT")

    page.until(lambda: page.process(ended) and not page.process(running))


def test_each_sees_only_ones_own(page, alice, start):
    mine, hers = start(), start(cred=alice.cred)
    page.open(alice.token)

    page.until(lambda: page.process(hers))

    assert page.text("#who") == "alice" and not page.process(mine)


def test_files_stand_by_the_tier_that_holds_them(page, root, site):
    site.call("mkdir", Mkdir("/live-tiers", parents=True))
    for name in ("here", "away", "never"):
        flags = OpenFlags.CREAT | OpenFlags.RDWR
        fd = site.call("open", Open(f"/live-tiers/{name}.kv", pack_tokens(range(1, 33)), flags)).fd
        if name != "never":
            site.compute(fd)
    site.call("advise", Advise(path="/live-tiers/away.kv", advice="dontneed", tier="host", wait=True))
    page.open(root.token)
    page.find("#files-path").clear()
    page.find("#files-path").send_keys("/live-tiers")

    def tiers() -> dict[str, str]:
        return {row[0]: row[4] for row in page.rows("#files")}

    page.until(lambda: tiers() == {
        "/live-tiers/here.kv": "2 · 0 · 0", "/live-tiers/away.kv": "0 · 2 · 0", "/live-tiers/never.kv": "0 · 0 · 0"
    }, "all three are there")  # fmt: skip
    for tier, name in (("host", "away"), ("device", "here"), ("none", "never")):
        page.find(f"#files-tier option[value={tier}]").click()
        page.until(lambda name=name: list(tiers()) == [f"/live-tiers/{name}.kv"])
    page.find("#files-tier option").click()
    page.find("#files-path").send_keys("/nothing")
    page.expected.append("404")
    page.until(lambda: page.text("#files-error").startswith("No such "))


def test_the_timeline_grows_while_a_program_runs(page, root, start):
    page.open(root.token)
    page.find("#steps summary").click()
    start()

    def last() -> int:
        rows = page.rows("#steps")
        return int(rows[0][0].replace(",", "")) if rows else 0

    seen = page.until(last)
    page.until(lambda: last() > seen + 20)
    colours = page.run(COLOURS)

    assert colours >= 2  # rows and tokens
    assert "steps/s" in page.text("#timeline-sums")
    assert page.find("#timeline").get_attribute("aria-label").startswith("Batch timeline of the last 1 min")


def test_steps_can_be_read_by_keyboard(page, root, start):
    start()
    page.open(root.token)
    page.run("document.querySelector('#timeline').focus()")

    page.until(lambda: page.key(LEFT) or page.text("#timeline-step").startswith("step "))
    first = page.text("#timeline-step")
    page.key(LEFT)

    assert " row" in first and "token" in first and page.text("#timeline-step") != first


def test_calls_and_errors_are_counted(page, root, start):
    start(LOOKS_FOR_NOTHING)
    page.open(root.token)

    row = page.until(lambda: next((r for r in page.rows("#calls") if r[0] == "stat"), None))
    failed = page.until(lambda: next((r for r in page.rows("#errors") if r[3] == "ENOENT"), None))

    assert row[2].endswith("(100 %)") and failed[2] == "stat(path=/no/such)"
    page.run("[...document.querySelectorAll('#calls thead button')].find(b => b.innerText === 'Longest').click()")
    assert page.find("#calls th[data-name=longest]").get_attribute("aria-sort") == "descending"


def test_a_click_shows_what_a_process_prints_and_waits_for(page, root, start):
    pid = start(args='{"say": "good evening"}')
    page.open(root.token)

    page.open_panel(pid)
    page.until(lambda: {"good evening", '{"said": "good evening"}'} <= {line.replace('":"', '": "') for line in page.log()})

    assert page.until(lambda: page.text("#panel-why")).startswith("0")
    assert "Tokens out" in page.text("#panel-usage")


def test_the_buttons_send_signals_and_kill_asks_once_more(page, alice, start, site):
    pid = start(cred=alice.cred)
    page.open(alice.token)
    page.open_panel(pid)

    page.press("STOP")
    until(lambda: site.process(pid).state == "stopped")
    page.until(lambda: page.is_shown("[data-signal=CONT]") and not page.is_shown("[data-signal=STOP]"))
    page.press("CONT")
    until(lambda: site.process(pid).state == "running")
    page.press("KILL")
    assert page.text("[data-signal=KILL]") == "Really kill?" and site.process(pid).exit is None
    page.press("KILL")

    assert until(lambda: site.process(pid).exit).code == 137
    page.until(lambda: "exit 137" in page.text("#panel-state") and not page.is_shown("[data-signal=KILL]"))


def test_end_lets_a_program_clean_up(page, root, start, site):
    pid = start()
    page.open(root.token)
    page.open_panel(pid)

    page.press("TERM")

    assert until(lambda: site.process(pid).exit).code == 130


def test_the_panel_is_opened_and_left_by_keyboard(page, root, start):
    pid = start(name="by-keyboard")
    page.open(root.token)
    page.until(lambda: page.process(pid))

    page.run("[...document.querySelectorAll('#processes button')].find(b => b.innerText.endsWith('by-keyboard')).focus()")
    page.key(ENTER)
    page.until(lambda: page.is_shown("#panel"))
    assert page.run("return document.activeElement.id") == "panel-head"
    page.key(ESCAPE)

    assert not page.is_shown("#panel")
    assert page.run("return document.activeElement.innerText").endswith("by-keyboard")


def test_long_output_keeps_the_page_small(page, root, start, site):
    pid = start("def main():\n    for i in range(5000):\n        print('line', i)\n")
    until(lambda: site.process(pid).exit)
    page.open(root.token)

    page.open_panel(pid)
    page.until(lambda: "line 4999" in page.log())

    assert len(page.log()) == 1000


def test_a_lost_connection_is_said_and_comes_back(chromium, sim_server):
    site = Site(sim_server)
    site.start()
    token = site.token("live-reconnect", "root", scopes=("admin", "run"))
    page = Page(chromium, site.url).open(token)
    pid = site.spawn()
    page.until(lambda: page.process(pid))

    site.stop()
    page.until(lambda: page.is_shown("#lost") and page.state == "connection lost")
    assert "Connection lost" in page.text("#lost") and page.process(pid)  # what was seen last stays
    again = Site(sim_server).on(site.port)
    again.start()
    with suppress(ElementNotInteractableException):  # it came back by itself
        page.find("#retry").click()
    page.until(lambda: page.state == "live" and not page.is_shown("#lost"))
    again.call("kill", Kill(pid, "KILL"))
    page.until(lambda: page.process(pid)[1].startswith("exit 137"))

    page.expected = [
        "net::ERR_CONNECTION_REFUSED",
        "net::ERR_INCOMPLETE_CHUNKED_ENCODING",
        "net::ERR_EMPTY_RESPONSE",
        "ERR_CONNECTION_RESET",
    ]
    assert page.complaints() == []
    page.close()
    again.stop()


def test_the_token_leaves_the_address_at_once_and_outlives_a_reload(page, root):
    page.open(root.token)

    assert page.driver.current_url == page.url
    page.driver.refresh()
    page.until(lambda: page.state == "live")


def test_a_token_can_be_pasted_and_forgotten(page, alice):
    page.open()
    assert page.is_shown("#door") and not page.is_shown("#board")

    page.find("#token").send_keys("sym_nonsense", ENTER)
    assert "none, or not all of it" in page.text("#door-error")
    page.find("#token").clear()
    page.find("#token").send_keys(alice.token, ENTER)
    page.until(lambda: page.text("#who") == "alice")
    page.find("#leave").click()

    page.until(lambda: page.is_shown("#door"))
    assert page.run("return sessionStorage.length") == 0 and alice.token not in page.run(
        "return document.documentElement.outerHTML"
    )


def test_a_token_that_is_none_is_refused_with_the_reason(page, root):
    page.expected.append("401")
    page.open()

    page.find("#token").send_keys(root.token[:-4] + "0000", ENTER)

    page.until(lambda: "Unknown or revoked token" in page.text("#door-error"))


def test_a_revoked_token_asks_who_one_is(page, site):
    page.expected.append("401")
    page.open(site.token("live-revoked", "alice"))

    site.tokens.revoke("live-revoked")

    page.until(lambda: page.is_shown("#door") and "token" in page.text("#door-error"))


def test_markup_of_programs_is_text(page, root, start, site):
    site.call("mkdir", Mkdir("/live-markup", parents=True))
    path = "/live-markup/<img src=x onerror=window.pwned=1>"
    site.call("open", Open(path, pack_tokens(range(1, 9)), OpenFlags.CREAT | OpenFlags.RDWR))
    failing = f"print(say)\n    try:\n        await lip.stat({path + 'x'!r})\n    except lip.NoSuchFile as e:\n        print(e)"
    program = TALKER.replace("print(say)", failing)
    pid = start(program, name=MARKUP, args='{"say": "%s"}' % MARKUP)  # noqa: UP031
    page.open(root.token)

    page.open_panel(pid)
    page.until(lambda: MARKUP in page.log())
    page.find("#files-path").clear()
    page.find("#files-path").send_keys("/live-markup")
    page.until(lambda: [row[0] for row in page.rows("#files")] == [path])

    assert page.text("#panel-head") == f"{pid} {MARKUP}"
    assert MARKUP in page.process(pid)[0]
    assert page.until(lambda: next((r for r in page.rows("#errors") if "onerror" in r[2]), None))
    assert page.run("return document.querySelectorAll('main img, aside img, main script, aside script').length") == 0


def test_control_characters_are_shown_not_obeyed(page, root, start):
    pid = start(name="safe\u202eexe.\u200b\x1b[31m")
    page.open(root.token)

    page.open_panel(pid)

    assert page.text("#panel-head") == rf"{pid} safe\u202eexe.\u200b\u001b[31m"


def test_the_policy_stops_what_would_get_past_the_page(page, root):
    page.open(root.token)
    page.expected += [
        "Content Security Policy",
        "TrustedHTML",
        "TrustedScript",
        "violates the following",
        "script-src",
        "trusted-types",
        "style-src",
        "img-src",
    ]

    page.run(
        "const s = document.createElement('script'); try { s.text = 'window.pwned = 1' } catch { window.stopped = 1 }"
        "document.body.append(s); const i = new Image(); i.src = 'http://192.0.2.1/x.png';"
        "try { document.body.innerHTML = '<b>x</b>'; window.changed = 1 } catch { window.stopped = 2 }"
    )

    assert page.run("return [window.pwned ?? null, window.stopped, window.changed ?? null]") == [None, 2, None]
    page.until(lambda: page.run("return window.refused.some(r => r.startsWith('img-src'))"))


def test_the_page_asks_nobody_but_its_server(page, root, start):
    start()
    page.open(root.token)
    page.until(lambda: page.rows("#calls"))

    asked = page.run("return performance.getEntriesByType('resource').map(e => e.name)")

    assert asked and all(name.startswith(page.url) for name in asked)


def test_everything_that_one_can_use_has_a_name(page, root, start):
    pid = start()
    page.open(root.token)
    page.open_panel(pid)

    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = [
        n
        for n in nodes
        if n.get("role", {}).get("value") in ("button", "textbox", "searchbox", "combobox", "checkbox", "radio", "meter", "image")
    ]
    nameless = [n["role"]["value"] for n in used if not n["ignored"] and not n.get("name", {}).get("value")]

    assert len(used) > 15 and nameless == []


@pytest.mark.parametrize("width", [420, 1440])
def test_nothing_is_wider_than_the_window(page, root, start, width):
    start(name="n" * 150)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.open(root.token)
    page.until(lambda: page.rows("#processes"))

    assert page.run("return document.documentElement.scrollWidth") <= width
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_is_dark_where_the_system_is(page, root):
    def background(scheme: str) -> str:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return page.run("return getComputedStyle(document.body).backgroundColor")

    page.open(root.token)

    assert (background("light"), background("dark")) == ("rgb(245, 246, 248)", "rgb(15, 18, 22)")
    background("")


def test_a_held_picture_stands_still_and_goes_on(page, root, start):
    page.open(root.token)
    page.find("#freeze").click()

    pid = start()
    page.until(lambda: page.run("return performance.getEntriesByType('resource').length"))
    assert page.find("#freeze").get_attribute("aria-pressed") == "true" and not page.process(pid)
    page.find("#freeze").click()

    page.until(lambda: page.process(pid))
