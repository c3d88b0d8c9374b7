"""The kernel inside vLLM's own EngineCore process (engine/embedded.py): a seam proof of host (b).

    vLLM's front --utility call "symphony_attach"--> EngineCore process: FileDevice + Reactor thread, its own unix socket
    reactor --mail + one WAKEUP on the input queue--> engine loop takes the mail in `has_requests`

A `vllm.general_plugins` entry point gives EngineCore one method; with the plugin not named in VLLM_PLUGINS it does nothing, and
without the call nothing changes. The scheduler and worker classes are named in the launch line (`LAUNCH_FLAGS`).
Source: vllm/v1/engine/core.py `EngineCoreProc.run_busy_loop`, `_handle_client_request` (0.32).
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Sequence
from typing import Any

from vllm_symphony.abi.types import Ino, JobId, ModelInfo
from vllm_symphony.abi.user import own_user
from vllm_symphony.engine.alarm import Alarm
from vllm_symphony.kernel.effect import Capacity, Completion, DeviceEffect, Residency, TextJob

PLUGIN = "symphony"
LAUNCH_FLAGS = {
    "scheduler_cls": "vllm_symphony.engine.scheduler.SymphonyScheduler",
    "worker_cls": "vllm_symphony.engine.worker.SymphonyWorker",
}


def register() -> None:
    """Entry point of `vllm.general_plugins`. Returns at once unless `symphony` is named in VLLM_PLUGINS."""
    if PLUGIN not in os.environ.get("VLLM_PLUGINS", "").split(","):
        return
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the runner that our mixin is proven on
    from vllm.v1.engine.core import EngineCore

    EngineCore.symphony_attach = attach  # utility calls are looked up by name on the core


def attach(core: Any, socket_path: str) -> dict[str, Any]:
    """Start the kernel in this engine process; runs on the engine thread. Returns what `model_info` says, and the pid."""
    from vllm_symphony.engine import compat
    from vllm_symphony.engine.image import image
    from vllm_symphony.engine.reactor import Reactor
    from vllm_symphony.engine.scheduler import SymphonyMixin
    from vllm_symphony.errors import NotSupported
    from vllm_symphony.kernel.kernel import Kernel

    compat.check_version()
    compat.check_config(core.vllm_config)
    if not isinstance(core.scheduler, SymphonyMixin):
        raise NotSupported(
            f"the engine runs {type(core.scheduler).__name__}: launch it with --scheduler-cls and --worker-cls of symphony"
        )
    host = EmbeddedHost(core)
    kernel = Kernel(host.model, boot_ns=time.monotonic_ns(), epoch_ns=time.time_ns(), info=host.counters)
    kernel.image = image()
    reactor = Reactor(kernel, host, socket_path=socket_path, principal=own_user())
    reactor.start()
    core.symphony = reactor
    return {"pid": os.getpid(), "model": host.model.name, "pages": host.model.num_pages}


class EmbeddedHost:
    """A `Device` over an engine core whose loop is vLLM's."""

    model: ModelInfo

    def __init__(self, core: Any) -> None:
        from vllm.v1.engine import EngineCoreRequestType

        from vllm_symphony.engine.fitting import fit

        self.core = core
        self._wakeup = (EngineCoreRequestType.WAKEUP, None)
        self._deliver: Callable[[Sequence[Completion]], None] = lambda _: None
        fitting = fit(core, core.vllm_config, deliver=lambda batch: self._deliver(batch), wake=self._ring, wait=self._wait_for_mail)
        self.device, self.text, self.model = fitting.device, fitting.text, fitting.model
        self._alarm = Alarm(self._ring)  # vLLM's loop sleeps until something arrives
        core.scheduler.on_wake_at = self._alarm.set

    def start(self, on_completions: Callable[[Sequence[Completion]], None], on_death: Callable[[BaseException], None]) -> None:
        """vLLM's loop is running already; its death takes this process, and with it the kernel."""
        self._deliver = on_completions

    def submit(self, effects: Sequence[DeviceEffect | TextJob]) -> None:
        for e in effects:
            if isinstance(e, TextJob):
                self.text.submit(e)
            else:
                self.device.mail.append(e)
        self._ring()

    def stop(self) -> None:
        self._alarm.stop()
        self.text.stop()

    def job_state(self, job: JobId) -> tuple[str, str]:
        return self.device.job_state(job)

    def decode(self, tokens: list[int]) -> str:
        return self.text.decode(tokens)

    def residency(self, ino: Ino) -> Residency:
        return self.device.residency(ino)

    def capacity(self) -> Capacity:
        return self.device.capacity()

    def counters(self) -> dict[str, float]:
        return {**self.device.counters(), **self.core.scheduler.symphony_counters()}

    def _ring(self) -> None:
        if not self.device.rung:
            self.device.rung = True
            self.core.input_queue.put_nowait(self._wakeup)

    def _wait_for_mail(self, timeout_s: float) -> bool:
        """Wait on the one thing that everything arrives by. What is not ours goes back, and ends the cohort wait."""
        inbox = self.core.input_queue
        try:
            item = inbox.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if item[0] is self._wakeup[0]:
            return self.device.take_mail()
        with inbox.mutex:
            inbox.queue.appendleft(item)
            inbox.not_empty.notify()
        self.core.scheduler.plain_arrived = True
        return False
