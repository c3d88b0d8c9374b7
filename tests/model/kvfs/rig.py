"""The real thing: kernel, simulated device with its tiers, store, and a clock that the driver moves (tests/model/kvfs/rig.py)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Credentials, Pid, Span, pack_tokens
from vllm_symphony.engine.sim import Cost, SimDevice
from vllm_symphony.engine.sim.model import decode
from vllm_symphony.engine.storage import StorageCore
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.kernel import effect as e
from vllm_symphony.kernel.kernel import Kernel
from vllm_symphony.kernel.limits import Limits
from vllm_symphony.store.state import StateDirectory

NO_REPLY = object()
JOBS = (e.ForwardJob, e.GenerateJob, e.SampleJob, e.ExtractJob, e.ConcatJob)
HOST_BYTES = 1 << 20


class Rig:
    """`replies` by (pid, call id): a result or an error. `started`: jobs that the last entry began."""

    def __init__(self, limits: Limits, num_pages: int, page_size: int, max_positions: int) -> None:
        self.now = 0
        self._sizes = {"num_pages": num_pages, "page_size": page_size, "max_positions": max_positions}
        self._limits = limits
        self._folder = tempfile.TemporaryDirectory(prefix="kvfs-", ignore_cleanup_errors=True)
        self.replies: dict[tuple[int, int], Any] = {}
        self.parts: dict[tuple[int, int], list[Any]] = {}
        self.started: list[Any] = []
        self.num_calls = 0
        self._switch_on()

    def _switch_on(self) -> None:
        path = Path(self._folder.name) / "fs"
        directory = StateDirectory(path)
        device = SimDevice(
            **self._sizes, clock=lambda: self.now / 1e9, cost=Cost(max_tokens=40, max_rows=6),
            tiers=TierLimits(HOST_BYTES, HOST_BYTES, directory.pages),
        )  # fmt: skip
        self.core, model = device.core, device.model
        self.storage = StorageCore(directory, fingerprint=model.fingerprint, page_bytes=model.page_bytes, decode=decode)
        self.kernel = Kernel(model, limits=self._limits, boot_ns=self.now, epoch_ns=self.now)
        self.kernel.job_state = self.core.job_state
        self.kernel.residency, self.kernel.capacity = self.core.residency, self.core.capacity
        self.kernel.restore(self.storage.load(), self.now)
        self.carry_out()

    def switch_off(self, crash: bool) -> None:
        """Nothing is in flight. What a clean stop would have saved is not, in a crash."""
        if not crash:
            self.kernel.save(self.now)
            self.carry_out()
            self.settle()
            self.kernel.keep.close()
            self.carry_out()
            self.storage.close()
        self.storage.abandon()

    def switch_on(self) -> None:
        self.parts.clear()
        self._switch_on()

    def close(self) -> None:
        self.storage.abandon()
        self._folder.cleanup()

    # ---- entries of the kernel

    def connect(self, cred: Credentials, role: str, lease_s: float = 0.0) -> int:
        pid = self.kernel.connect(cred, role, self.now, lease_s=lease_s)
        self.carry_out()
        return pid

    def call(self, pid: int, op: str, args: dict[str, Any], cred: Credentials | None, session: int = 0) -> int:
        """Its id. Lists of tokens are packed."""
        packed = {key: pack_tokens(value) if key == "tokens" and value is not None else value for key, value in args.items()}
        if "spans" in packed:
            packed["spans"] = tuple(Span(*span) for span in packed["spans"])
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

    # ---- the device and the store

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

    def settle(self) -> None:
        """Let the device do all that is left to do."""
        for _ in range(100_000):
            completions = self.step(lambda: None)
            for completion in completions:
                self.complete(completion)
            if not (completions or self.core.has_work or self.kernel.works):
                return
        raise AssertionError("the device never rests")

    def carry_out(self) -> None:
        while self.kernel.effects:
            effects = self.kernel.effects[:]
            self.kernel.effects.clear()
            for effect in effects:
                self._carry_out(effect)
            stored = [effect for effect in effects if isinstance(effect, e.StoreEffect)]
            if stored and (done := self.storage.apply(stored)):
                self.kernel.complete(done, self.now)
        if not self.core.is_stepping:
            self.core._take_mail()  # so that where pages are is known at once

    def _carry_out(self, effect: Any) -> None:
        if isinstance(effect, e.Reply):
            self.replies[effect.pid, effect.call_id] = effect.result
        elif isinstance(effect, e.ReplyError):
            self.replies[effect.pid, effect.call_id] = effect.error
        elif isinstance(effect, e.Part):
            self.parts.setdefault((effect.pid, effect.call_id), []).append(effect.part)
        elif isinstance(effect, e.DeviceEffect):
            self.started += [effect] if isinstance(effect, JOBS) else []
            self.core.submit((effect,))

    def check(self) -> None:
        """All that the device believes is so."""
        self.core.check()
