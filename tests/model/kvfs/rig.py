"""The real thing: kernel, simulated device and a clock that the driver moves (tests/model/kvfs/rig.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Credentials, Pid, pack_tokens
from vllm_symphony.engine.sim import Cost, SimDevice
from vllm_symphony.kernel import effect as e
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.limits import Limits

NO_REPLY = object()


class Rig:
    """`replies` by (pid, call id): a result or an error. `started`: jobs that the last entry began."""

    def __init__(self, limits: Limits, num_pages: int, page_size: int, max_positions: int) -> None:
        self.now = 0
        device = SimDevice(
            num_pages=num_pages, page_size=page_size, max_positions=max_positions, clock=lambda: self.now / 1e9,
            cost=Cost(max_tokens=40, max_rows=6),
        )  # fmt: skip
        self.core = device.core
        self.kernel = Kernel(device.model, limits=limits)
        self.kernel.job_state = self.core.job_state
        self.kernel.residency, self.kernel.capacity = self.core.residency, self.core.capacity
        self.replies: dict[tuple[int, int], Any] = {}
        self.parts: dict[tuple[int, int], list[Any]] = {}
        self.started: list[Any] = []
        self.num_calls = 0

    def connect(self, cred: Credentials, role: str, lease_s: float = 0.0) -> int:
        return self.kernel.connect(cred, role, self.now, lease_s=lease_s)

    def call(self, pid: int, op: str, args: dict[str, Any], cred: Credentials | None, session: int = 0) -> int:
        """Its id. Lists of tokens are packed."""
        packed = {key: pack_tokens(value) if key == "tokens" and value is not None else value for key, value in args.items()}
        self.num_calls += 1
        self.started = []
        made = CALLS[op].args(**packed)
        self.kernel.call(Pid(pid), self.num_calls, 0, op, made, self.now, cred, session=Pid(session))
        self.carry_out()
        return self.num_calls

    def reply(self, pid: int, call: int) -> Any:
        """Takes it away; NO_REPLY while there is none."""
        return self.replies.pop((pid, call), NO_REPLY)

    def pass_time(self, until: int, then: Callable[[], None]) -> None:
        """Let the kernel's alarms ring, each at its time; `then` after each and at the end."""
        while (when := self.kernel.next_deadline_ns()) is not None and when <= until:
            self.now = max(self.now, when)
            self.kernel.tick(self.now)
            self.carry_out()
            then()
        self.now = max(self.now, until)
        then()

    def step(self, then: Callable[[], None]) -> list[Any]:
        """One step of the device; its completions, of which the kernel has not heard."""
        seconds = self.core.begin()
        if seconds is not None:
            self.pass_time(self.now + int(seconds * 1e9) + 1, then)
            self.core.finish()
        elif self.core.wake_at is not None:
            self.pass_time(int(self.core.wake_at * 1e9) + 1, then)
        return self.core.take()

    def complete(self, completion: Any) -> None:
        self.kernel.complete((completion,), self.now)
        self.carry_out()

    def carry_out(self) -> None:
        effects = self.kernel.effects[:]
        self.kernel.effects.clear()
        for effect in effects:
            if isinstance(effect, e.Reply):
                self.replies[effect.pid, effect.call_id] = effect.result
            elif isinstance(effect, e.ReplyError):
                self.replies[effect.pid, effect.call_id] = effect.error
            elif isinstance(effect, e.Part):
                self.parts.setdefault((effect.pid, effect.call_id), []).append(effect.part)
            elif isinstance(effect, e.DeviceEffect):
                if hasattr(effect, "job") and not isinstance(effect, e.CancelJob):
                    self.started.append(effect)
                self.core.submit((effect,))
        if not self.core.is_stepping:
            self.core._take_mail()  # so that where pages are is known at once

    def check(self) -> None:
        self.core._take_mail()
        self.core.check()
