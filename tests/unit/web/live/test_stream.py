"""A stream's life: it ends when the page goes, takes nothing, or the kernel is lost; nothing of it is left."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from vllm_symphony.abi.types import ProcessEvent
from vllm_symphony.errors import DeviceLost
from vllm_symphony.web.live import stream
from vllm_symphony.web.live.stream import MAX_LINE_CHARS, EventStream, event, output_line


class Ticks(EventStream):
    """Says a number at each look; follows until it is told to end."""

    def __init__(self, ends: Exception | None = None) -> None:
        self.is_stopping, self.number = False, 0
        self.ends, self.ended = ends, asyncio.Event()
        self.was_cancelled = False
        super().__init__(lambda: self.is_stopping)

    async def follow(self) -> None:
        try:
            await self.ended.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.ends:
            raise self.ends

    async def frames(self) -> AsyncGenerator[bytes, None]:
        self.number += 1
        yield event("tick", self.number)


class Browser:
    """One connection; `takes` None: for ever."""

    def __init__(self, takes: int | None = None) -> None:
        self.left, self.has_some = asyncio.Event(), asyncio.Event()
        self.sent: list[bytes] = []
        self.is_over = False
        self._takes = takes

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            if self._takes is not None and len(self.sent) >= self._takes:
                await asyncio.Event().wait()
            self.sent.append(message["body"])
            if len(self.sent) > 3:
                self.has_some.set()
            self.is_over = not message["more_body"]

    @property
    def last(self) -> tuple[str, Any]:
        head, data = self.sent[-1].decode().strip().split("\n")
        return head.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stream, "TICK_S", 0.001)
    monkeypatch.setattr(stream, "SEND_S", 0.05)


def run(talk) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(10):
            await talk()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(bounded())


def test_a_page_that_goes_ends_its_stream():
    async def talk() -> None:
        ticks, browser = Ticks(), Browser()
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(ticks({}, browser.receive, browser.send))
            await browser.has_some.wait()
            browser.left.set()
            await serving
        assert ticks.was_cancelled and not browser.is_over

    run(talk)


def test_a_page_that_takes_nothing_is_given_up():
    async def talk() -> None:
        ticks, browser = Ticks(), Browser(takes=2)
        await ticks({}, browser.receive, browser.send)
        assert ticks.was_cancelled and len(browser.sent) == 2

    run(talk)


@pytest.mark.parametrize("fault", [ConnectionResetError, BrokenPipeError])
def test_a_connection_that_breaks_while_something_is_sent_ends_the_stream(fault):
    async def talk() -> None:
        ticks, browser = Ticks(), Browser()

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body" and ticks.number > 2:
                raise fault
            await browser.send(message)

        await ticks({}, browser.receive, send)
        assert ticks.was_cancelled

    run(talk)


def test_a_server_that_stops_says_a_last_word():
    async def talk() -> None:
        ticks, browser = Ticks(), Browser()
        ticks.is_stopping = True
        await ticks({}, browser.receive, browser.send)
        assert browser.last == ("end", {}) and browser.is_over

    run(talk)


def test_what_came_last_is_told_before_the_end():
    async def talk() -> None:
        ticks, browser = Ticks(), Browser()
        ticks.ended.set()
        await ticks({}, browser.receive, browser.send)
        assert browser.sent[-2] == event("tick", ticks.number) and browser.last == ("end", {})

    run(talk)


def test_an_error_of_the_kernel_is_the_last_word():
    async def talk() -> None:
        ticks, browser = Ticks(ends=DeviceLost("the kernel is gone")), Browser()
        ticks.ended.set()
        await ticks({}, browser.receive, browser.send)
        kind, data = browser.last
        assert (kind, data["error"]["code"]) == ("end", "ENODEV") and browser.is_over

    run(talk)


def test_who_is_cut_off_from_outside_is_cut_off():
    async def talk() -> None:
        ticks, browser = Ticks(), Browser()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):  # as the door does when a token is revoked
                await ticks({}, browser.receive, browser.send)
        assert ticks.was_cancelled and not browser.is_over

    run(talk)


def test_no_text_can_end_a_frame():
    frame = event("events", {"text": "a\n\nevent: end\ndata: {}\r\n\u2028"})

    assert frame.count(b"\n\n") == 1 and frame.endswith(b"\n\n") and frame.isascii()


def test_a_very_long_line_is_cut_and_its_neighbours_are_whole():
    shown = output_line(ProcessEvent(3, 5_000_000, "stdout", f"first\n{'x' * 9000}\nlast"))

    first, cut, last = shown["text"].split("\n")
    assert (first, last, shown["seq"], shown["t_ms"]) == ("first", "last", 3, 5.0)
    assert cut == "x" * MAX_LINE_CHARS + "… (9,000 characters)"
