"""The own host: vLLM's EngineCore on a thread of ours (engine/own.py).

    kernel's thread --submit--> mail --+
                                       v
    engine thread:   take mail -> has_requests? -> step -> completions --> kernel's thread
                          ^--- sleeps on an event when nothing is schedulable

No ZMQ, no second process: for tests, notebooks and `symphony serve` without vLLM's HTTP server. The engine core is vLLM's own
class, unchanged; scheduler and worker are ours by name. Plain requests may run beside files (`add_plain`), which the tests use.
Source: vllm/v1/engine/core.py `EngineCore` (0.32).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine import compat
from vllm_symphony.engine.fitted import FittedHost
from vllm_symphony.engine.seats import SCHEDULER, WORKER
from vllm_symphony.engine.share import Share
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.errors import DeviceLost, NotSupported
from vllm_symphony.kernel.effect import Completion, DeviceEffect, ForwardJob, JobFailed, Owner, TextJob


def prepare_environment() -> None:
    """Settings that vLLM reads once, before it is imported for the first time. Values that the operator set are kept."""
    defaults = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else the CPU platform forces worker processes
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # the runner that our mixin is proven on
        "VLLM_NO_USAGE_STATS": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def engine_config(engine_args: Any) -> Any:
    """vLLM's config for our host: our scheduler and worker, everything else as the operator said."""
    from vllm.usage.usage_lib import UsageContext

    compat.check_version()
    engine_args.worker_cls = WORKER
    config = engine_args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    compat.check_config(config)
    if refusal := compat.jobs_refusal(config):
        raise NotSupported(refusal)
    config.scheduler_config.scheduler_cls = SCHEDULER
    return config


class OwnHost(FittedHost):
    """A `Device` (kernel/effect.py): engine core, tokenizer and their threads in this process."""

    def __init__(
        self,
        engine_args: Any,
        *,
        progress: Callable[[str], None] = lambda _: None,
        tiers: TierLimits = TierLimits(),  # noqa: B008  frozen
        share: Share | None = None,
    ) -> None:
        prepare_environment()
        progress("importing vllm")
        from vllm.v1.engine.core import EngineCore
        from vllm.v1.executor.abstract import Executor

        config = engine_config(engine_args)
        progress("loading the model")
        self.core = EngineCore(config, Executor.get_class(config), log_stats=False)
        self.scheduler: Any = self.core.scheduler
        self.scheduler.share = share or Share()
        self._mail = threading.Event()
        self._deliver: Callable[[Sequence[Completion]], None] = lambda _: None
        self.fit(
            config,
            deliver=lambda batch: self._deliver(batch),
            wake=self._mail.set,
            wait=self._wait_for_mail,
            tool_parser=getattr(engine_args, "tool_call_parser", None),
            tiers=tiers,
        )
        self._plain: dict[str, Callable[[Any], None]] = {}
        self._thread_calls: list[tuple[Callable[[], Any], threading.Event, list[Any]]] = []
        self._stopping = False
        self._warm = threading.Event()
        self._thread: threading.Thread | None = None
        self._on_death: Callable[[BaseException], None] = lambda _: None

    # ---- Device

    def start(self, on_completions: Callable[[Sequence[Completion]], None], on_death: Callable[[BaseException], None]) -> None:
        self._deliver, self._on_death = on_completions, on_death
        self._thread = threading.Thread(target=self._run, name="symphony-engine", daemon=True)
        self._thread.start()
        self._warm.wait()

    def submit(self, effects: Sequence[DeviceEffect | TextJob]) -> None:
        if self.device.dead is not None:
            self._refuse(effects)
            return
        mail = self.device.mail
        for e in effects:
            if isinstance(e, TextJob):
                self.text.submit(e)
            else:
                mail.append(e)
        if self.device.dead is not None:  # it died meanwhile: nobody empties the mailbox any more
            self.device.refuse_mail()
        self._mail.set()

    def stop(self) -> None:
        if self._thread is not None and self._thread.is_alive() and not self._stopping:
            self._stopping = True
            self._mail.set()
            self._thread.join()
        self.text.stop()
        if self.core is not None:
            self.core.shutdown()
            self.core = None

    def _refuse(self, effects: Sequence[DeviceEffect | TextJob]) -> None:
        error = DeviceLost(self.device.dead or "the engine is gone")
        lost = [JobFailed(job, error) for e in effects if (job := getattr(e, "job", None)) is not None]
        if lost:
            self._deliver(lost)

    # ---- engine thread

    def _run(self) -> None:
        try:
            self._warm_up()
            while not self._stopping:
                self._mail.clear()
                self._run_thread_calls()
                if not self.scheduler.has_requests():
                    self._sleep()
                    continue
                outputs, executed = self.core.step_fn()
                self.core.post_step(executed)
                if outputs:
                    self._hand_out_plain(outputs)
                if not executed:
                    self.device.rows.drop_now()
                    self._mail.wait(0.001)  # a step without work: waits for a grammar to compile, or only says goodbye to rows
            self.device.lose("the server is stopping")
        except BaseException as error:
            self._warm.set()
            self.device.lose(f"the engine died: {type(error).__name__}: {error}")
            self._on_death(error)
            raise

    def _warm_up(self) -> None:
        """One real step through a file, so that a server that says it is ready has computed something."""
        device, done = self.device, threading.Event()
        file = device.table.create(Ino(-(1 << 52)), [0], "warm-up", device.clock())
        first = ForwardJob(JobId(-(1 << 52)), file.ino, [], 0, (-1,), 1, (), 1.0, False, Owner())
        device.submit_forward(first, lambda _: done.set())
        while not done.is_set():
            self.core.step_fn()
        device.table.drop(file)
        self._warm.set()

    def _sleep(self) -> None:
        look_at = self.scheduler.next_look()
        self._mail.wait(None if look_at is None else max(0.0, look_at - self.device.clock()))

    def _wait_for_mail(self, timeout_s: float) -> bool:
        if not self._mail.wait(timeout_s):
            return False
        self._mail.clear()
        return self.device.take_mail() or bool(self._thread_calls)

    # ---- for tests, benchmarks and notebooks

    def call_in_engine(self, fn: Callable[[], Any]) -> Any:
        """Run `fn` on the engine thread between steps and return what it gives (or raise what it raised)."""
        done, box = self._call_soon(fn)
        while not done.wait(1.0):
            if self._thread is None or not self._thread.is_alive():
                raise DeviceLost("the engine thread is gone")
        kind, value = box
        if kind == "error":
            raise value
        return value

    def _call_soon(self, fn: Callable[[], Any]) -> tuple[threading.Event, list[Any]]:
        done, box = threading.Event(), list[Any]()
        self._thread_calls.append((fn, done, box))
        self._mail.set()
        return done, box

    def _run_thread_calls(self) -> None:
        while self._thread_calls:
            fn, done, box = self._thread_calls.pop(0)
            self.device.take_mail()
            try:
                box += ["value", fn()]
            except Exception as error:  # noqa: BLE001  handed to the thread that asked
                box += ["error", error]
            done.set()

    def add_plain(self, request: Any, on_output: Callable[[Any], None], *, wait: bool = True) -> None:
        """A plain vLLM request (v1.Request, client_index 0) beside the files; `on_output` gets its EngineCoreOutputs. `wait`: until
        the engine has it."""

        def add() -> None:
            self._plain[request.request_id] = on_output
            self.core.add_request(request)

        (self.call_in_engine if wait else self._call_soon)(add)

    def _hand_out_plain(self, outputs: dict[int, Any]) -> None:
        for eco in outputs.values():
            for o in eco.outputs:
                handler = self._plain.get(o.request_id)
                if handler is not None:
                    if o.finish_reason is not None:
                        del self._plain[o.request_id]
                    handler(o)
