"""A headless Chromium and the live page in it. Debian's packages `chromium` and `chromium-driver`; nothing is downloaded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.web.live.conftest import until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MISSING = "no Chromium here: apt install chromium chromium-driver (scripts/setup does it, as root on Debian)"
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1440,1000",
)  # fmt: skip
# What must never happen is counted from before the page's own scripts run.
_WATCH = """
window.refused = [];
addEventListener('securitypolicyviolation', e => window.refused.push(e.violatedDirective + ' ' + e.sourceFile));
"""
# The cells of a table's rows, all of one moment.
_ROWS = "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"


def launch(profile: Path) -> webdriver.Chrome:
    """A browser without a past."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})
    return driver


class Page:
    """The live page of `url`."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = f"{url}/symphony/"
        self.expected: list[str] = []  # parts of what the console may say

    def open(self, token: str | None = None) -> "Page":
        """Come as somebody."""
        self.driver.get(self.url + (f"#token={token}" if token else ""))
        if token:
            self.until(lambda: self.state == "live" and self.text("#server"), "the page is live")
        return self

    def close(self) -> None:
        """Leave nothing for the next one."""
        self.run("sessionStorage.clear()")
        self.driver.get("about:blank")

    @property
    def state(self) -> str:
        return self.text("#state")

    def run(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return self.run("return document.querySelector(arguments[0])?.innerText.trim() ?? ''", css)

    def is_shown(self, css: str) -> bool:
        return self.run("return document.querySelector(arguments[0])?.checkVisibility() ?? false", css)

    def rows(self, css: str) -> list[list[str]]:
        return self.run(_ROWS, css)

    def process(self, pid: int) -> list[str] | None:
        """The row of a process: tree and name, state, principal, ..."""
        return next(
            (row for row in self.rows("#processes") if f" {row[0]} ".replace("└─", " ").replace("├─", " ").split()[0] == str(pid)),
            None,
        )

    def open_panel(self, pid: int) -> None:
        self.until(lambda: self.process(pid), f"process {pid} is there")
        script = "[...document.querySelectorAll('#processes button')].find(b => b.innerText.startsWith(arguments[0] + ' ')).click()"
        self.run(script, str(pid))
        self.until(lambda: self.text("#panel-head").startswith(f"{pid} "), "the panel is open")

    def press(self, signal: str) -> None:
        self.find(f"#panel-signals [data-signal={signal}]").click()

    def log(self) -> list[str]:
        """The lines of the panel's output."""
        return self.run("return [...document.querySelectorAll('#panel-log li span')].map(s => s.textContent)")

    def key(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def until(self, look: Callable[[], Any], what: str = "") -> Any:
        """What `look` gives, when it is true; a page on its way to another one has nothing to look at."""

        def seen() -> Any:
            try:
                return look()
            except WebDriverException:
                return None

        return until(seen, what)

    def complaints(self) -> list[str]:
        """What the console has said that it should not, and what the policy has refused."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        said += self.run("return window.refused ?? []")
        return [line for line in said if not any(part in line for part in self.expected)]


TAB, ENTER, ESCAPE, LEFT = Keys.TAB, Keys.ENTER, Keys.ESCAPE, Keys.ARROW_LEFT
