"""The kernel inside vLLM's own EngineCore process (engine/embedded.py): host (b).

    vLLM's front --utility call symphony_attach(words)--> EngineCore process: FileDevice + Reactor thread, its own unix socket
    reactor --mail + one WAKEUP on the input queue--> engine loop takes the mail in `has_requests`
    vLLM's front --utility call symphony_secret()--> what the door's requests name files' pages by (engine/salt.py)
    vLLM's front --utility call symphony_detach()--> programs end, files are written; then vLLM shuts down as ever
    a signal to this process, or the front's death: the same, before vLLM's loop ends (`has_work`)

A `vllm.general_plugins` entry point prepares every process of vLLM. Not named in VLLM_PLUGINS, it does nothing. Named, it makes
vLLM's config name our scheduler and worker (engine/seats.py) and gives EngineCore methods; plain requests go on as before, and
without `symphony_attach` nothing else changes. The settings are those of a kernel host (engine/boot.py).
Source: vllm/v1/engine/core.py `EngineCoreProc.run_busy_loop`, `_handle_client_request`, `_invoke_utility_method` (0.32).
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vllm_symphony.engine import beside, salt
from vllm_symphony.engine.alarm import Alarm
from vllm_symphony.engine.fitted import FittedHost
from vllm_symphony.engine.seats import SCHEDULER, WORKER
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.kernel.effect import Completion, DeviceEffect, TextJob

if TYPE_CHECKING:
    from vllm_symphony.engine.reactor import Reactor

ENDING_S = 0.001  # between two looks whether the kernel has ended

log = logging.getLogger("vllm_symphony")


def register() -> None:
    """Our part of `vllm.general_plugins`, where engine/plugin.py says that we are named; may be called again."""
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")  # the runner that our mixin is proven on
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.core import EngineCore

    EngineCore.symphony_attach = attach  # utility calls are looked up by name on the core
    EngineCore.symphony_detach = detach
    EngineCore.symphony_secret = lambda _: salt.SECRET
    make = EngineArgs.create_engine_config
    if not hasattr(make, "__wrapped__"):
        EngineArgs.create_engine_config = _seated(make)


def _seated(make: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's way to its config, with our scheduler and worker in the seats. Raises NotSupported where we cannot sit in them."""

    @functools.wraps(make)
    def create_engine_config(args: Any, *more: Any, **named: Any) -> Any:
        from vllm_symphony.engine import compat

        compat.check_version()
        compat.check_launch(args)
        args.scheduler_cls, args.worker_cls = SCHEDULER, WORKER
        config = make(args, *more, **named)
        compat.check_config(config)
        return config

    return create_engine_config


def attach(core: Any, words: list[str]) -> dict[str, Any]:
    """Start the kernel in this engine process with a host's flags; runs on the engine thread. What is told of it when ready; or
    `error` with its `reason`, because vLLM would log a traceback of what the operator got wrong."""
    from vllm_symphony.errors import SymphonyError

    try:
        return _attach(core, words)
    except (SymphonyError, ValueError, OSError) as e:
        log.debug("the kernel did not start", exc_info=True)
        return {"error": getattr(e, "message", str(e)), "reason": getattr(e, "reason", "EINVAL")}


def _attach(core: Any, words: list[str]) -> dict[str, Any]:
    """Raises: NotSupported: this engine has other classes than ours in our seats; what Ground and its boot raise."""
    from vllm_symphony.engine.boot import Ground, host_parser
    from vllm_symphony.engine.scheduler import SymphonyMixin
    from vllm_symphony.errors import FileExists, NotSupported

    if not isinstance(core.scheduler, SymphonyMixin):
        raise NotSupported(
            f"the engine runs the scheduler {type(core.scheduler).__name__}: launch it without --scheduler-cls and --worker-cls"
        )
    if core.scheduler.device is not None:
        raise FileExists("a kernel runs in this engine already")
    beside.end_with_parent()  # a killed front must not leave the engine behind
    ground = Ground(host_parser().parse_args(words))
    core.scheduler.share = ground.share
    host = EmbeddedHost(core, ground.tiers)
    reactor, told = ground.boot(host, lambda _: None, lambda error: log.error("the kernel ended: %s", error))
    core.symphony = reactor
    scheduler = core.scheduler
    scheduler.is_ending = lambda: bool(core.shutdown_state)
    scheduler.is_asleep = lambda: bool(core.model_executor.is_sleeping)
    core.collective_rpc = _watched(core, host, reactor)
    core.has_work = functools.partial(_has_work, core, core.has_work, reactor)
    core.scheduler.on_shutdown = functools.partial(_give_up, host, reactor)
    return told


def _watched(core: Any, host: EmbeddedHost, reactor: Reactor) -> Callable[..., Any]:
    """The core's RPC to all workers as vLLM's front has it. Whatever it did: the weights are looked at after it."""
    rpc = core.collective_rpc

    @functools.wraps(rpc)
    def collective_rpc(*args: Any, **named: Any) -> Any:
        try:
            return rpc(*args, **named)
        finally:
            if reactor.is_alive():
                host.look_at_weights(reactor)

    return collective_rpc


def detach(core: Any) -> Future[None]:
    """End programs and write the files, while the engine goes on; vLLM answers when it is done."""
    done: Future[None] = Future()
    reactor: Reactor | None = getattr(core, "symphony", None)
    if reactor is None:
        done.set_result(None)
    else:
        _stop_beside(reactor, done)
    return done


def _stop_beside(reactor: Reactor, done: Future[None]) -> threading.Thread:
    """Stop the kernel in a thread of its own: it may need the engine for saving pages."""

    def stop() -> None:
        try:
            reactor.stop()
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001  for whoever asked
            done.set_exception(error)

    thread = threading.Thread(target=stop, name="symphony-detach", daemon=True)
    thread.start()
    return thread


def _has_work(core: Any, vllms: Callable[[], bool], reactor: Reactor) -> bool:
    """In place of the core's own: an engine that was told to end by a signal goes on until the kernel has ended."""
    if core.shutdown_state and reactor.is_alive():
        if getattr(core, "symphony_ending", None) is None:
            core.symphony_ending = _stop_beside(reactor, Future())
        time.sleep(ENDING_S)  # vLLM's loop would spin
        return True
    return vllms()


def _give_up(host: EmbeddedHost, reactor: Reactor) -> None:
    """vLLM ends this engine, on the engine thread: nothing is computed any more."""
    host.device.lose("the engine is stopping")
    reactor.stop()


class EmbeddedHost(FittedHost):
    """A `Device` over an engine core whose loop is vLLM's."""

    def __init__(self, core: Any, tiers: TierLimits) -> None:
        from vllm.v1.engine import EngineCoreRequestType

        self.core = core
        self._wakeup = (EngineCoreRequestType.WAKEUP, None)
        self._deliver: Callable[[Sequence[Completion]], None] = lambda _: None
        self.fit(
            core.vllm_config,
            deliver=lambda batch: self._deliver(batch),
            wake=self._ring,
            wait=self._wait_for_mail,
            tiers=tiers,
        )
        self._alarm = Alarm(self._ring)  # vLLM's loop sleeps until something arrives
        core.scheduler.on_look = self._alarm.set

    def start(self, on_completions: Callable[[Sequence[Completion]], None], on_death: Callable[[BaseException], None]) -> None:
        """vLLM's loop is running already; its death takes this process, and with it the kernel."""
        self._deliver = on_completions

    def submit(self, effects: Sequence[DeviceEffect | TextJob]) -> None:
        for e in effects:
            if isinstance(e, TextJob):
                self.text.submit(e)
            else:
                self.device.mail.append(e)
        if self.device.dead is not None:  # nobody empties the mailbox any more
            self.device.refuse_mail()
        else:
            self._ring()

    def stop(self) -> None:
        self._alarm.stop()
        self.text.stop()

    def look_at_weights(self, reactor: Reactor) -> None:
        """Where they are others than before, no page of before is used again. On the engine thread."""
        from vllm_symphony.engine.fingerprint import together

        fingerprint = together(self.core.model_executor.collective_rpc("symphony_fingerprint"))
        if fingerprint == self.model.fingerprint:
            return
        from vllm_symphony.engine import control

        edited = control.forget(self.core.scheduler)
        self.core.model_executor.collective_rpc("symphony_rename_pages", args=(fingerprint,))
        self.model = replace(self.model, fingerprint=fingerprint)
        reactor.reweighted(fingerprint)
        control.refuse(self.device, edited)
        log.warning("the model's weights changed: files are computed again, and %d edited ones are stale", len(edited))

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
