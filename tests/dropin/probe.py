"""A look into the engine process from outside, for tests (tests/dropin/probe.py): a `vllm.general_plugins` entry point.

    test --unix socket, one JSON line each way--> thread here --input queue--> engine thread, between two steps

What can be asked stands in look.py, whose text comes with each question. `hold` keeps the engine from its next step, until the
connection that asked is closed; `hold amid` does so after the next step that leaves a request running, and says when it is armed.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

WAIT_S = 60.0


def register() -> None:
    """Have the kernel's start also start the probe, in whatever order vLLM loads its plugins. SYMPHONY_PROBE_CONFIG: what the CPU
    platform would not have so in vLLM's config, as {"scheduler_config.async_scheduling": true}."""
    if words := os.environ.get("SYMPHONY_PROBE_CONFIG"):
        _settle_after_the_platform(json.loads(words))
    from vllm.v1.engine.core import EngineCore

    from vllm_symphony.engine import embedded

    if hasattr(embedded.attach, "__wrapped__"):
        return
    attach = embedded.attach

    def attach_with_probe(core: Any, words: list[str]) -> dict[str, Any]:
        told = attach(core, words)
        if "error" not in told:
            Probe(core).start(os.environ["SYMPHONY_PROBE"])
        return told

    attach_with_probe.__wrapped__ = attach  # type: ignore[attr-defined]
    embedded.attach = attach_with_probe
    EngineCore.symphony_attach = attach_with_probe


def _settle_after_the_platform(settings: dict[str, Any]) -> None:
    from vllm.platforms import current_platform

    platform: Any = type(current_platform)
    check = platform.check_and_update_config.__func__
    if hasattr(check, "__wrapped__"):
        return

    def check_and_update_config(cls: Any, config: Any) -> None:
        check(cls, config)
        for name, value in settings.items():
            part, _, field = name.partition(".")
            setattr(getattr(config, part), field, value)

    check_and_update_config.__wrapped__ = check  # type: ignore[attr-defined]
    platform.check_and_update_config = classmethod(check_and_update_config)


class Probe:
    def __init__(self, core: Any) -> None:
        self.core = core
        self._amid: list[Callable[[], None]] = []  # to be called after a step that leaves a request running
        handle, step = core._handle_client_request, core._process_engine_step

        def with_calls(kind: Any, request: Any) -> None:
            request() if kind is self else handle(kind, request)

        def with_holds() -> bool:
            executed: bool = step()
            while self._amid and core.scheduler.running:
                self._amid.pop()()
            return executed

        core._handle_client_request, core._process_engine_step = with_calls, with_holds

    def start(self, path: str) -> None:
        listener = socket.socket(socket.AF_UNIX)
        Path(path).unlink(missing_ok=True)  # of a server that was killed
        listener.bind(path)
        listener.listen()
        threading.Thread(target=self._serve, args=(listener,), name="probe", daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._answer, args=(connection,), name="probe-call", daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            asked = json.loads(connection.makefile().readline())
            if asked["do"] == "hold":
                self.in_engine(lambda: _hold(connection))
                return
            if asked["do"] == "hold amid":
                self._hold_amid(connection)
                return
            try:
                names: dict[str, Any] = {"__name__": "look"}
                exec(compile(asked["look"], "look.py", "exec"), names)
                said = {"value": names[asked["do"]](self, **asked["args"])}
            except BaseException:  # noqa: BLE001  the test shows it
                said = {"error": traceback.format_exc()}
            connection.sendall(json.dumps(said).encode() + b"\n")

    def in_engine(self, fn: Callable[[], Any]) -> Any:
        """Call `fn` on the engine thread, between two steps."""
        done, box = threading.Event(), list[Any]()

        def call() -> None:
            try:
                box.append((fn(), None))
            except BaseException as error:  # noqa: BLE001  raised where it was asked
                box.append((None, error))
            done.set()

        self.core.input_queue.put_nowait((self, call))
        assert done.wait(WAIT_S), "the engine takes no call"  # held, or dead
        value, error = box[0]
        if error is not None:
            raise error
        return value

    def _hold_amid(self, connection: socket.socket) -> None:
        """Hold the engine once, when it is next amid a request; or never, where the other end is closed before."""
        is_over = threading.Event()

        def hold() -> None:
            with suppress(OSError):
                _hold(connection)
            is_over.set()

        self._amid.append(hold)
        connection.sendall(SAID)
        assert is_over.wait(WAIT_S), "the engine was never amid a request, or is held"


SAID = b'{"value": null}\n'


def _hold(connection: socket.socket) -> None:
    """Keep the engine from its next step until the other end closes."""
    connection.sendall(SAID)
    connection.recv(1)
