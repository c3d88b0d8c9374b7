"""SymphonyScheduler: our `schedule()` over vLLM's (engine/scheduler.py).

    mail from the kernel -> cohort wait -> order -> make room, park -> admit -> [ vLLM's schedule() ] -> close gates -> step plan

vLLM sees what runs and what we admitted for this step (gate.py); its own code for allocation, aborts, pauses and statistics keeps
working on all of it. When pages are short a running job is *parked*: taken out of `running` for the step, its blocks and progress
kept. vLLM's own preemption happens only through us (room.py, rule 4) and is counted.

Three meanings of "work": `get_request_counts` is the truth (metrics, load balancing); `get_num_unfinished_requests` means
"schedulable now", so that the loop sleeps when nothing is; while paused it is the true count, or a drain would end too early.
The mixin stands before either of vLLM's schedulers. Until `attach` it changes nothing.
Source: vllm/v1/core/sched/scheduler.py, async_scheduler.py (0.32).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import SchedulingPolicy
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from vllm_symphony.engine import salt
from vllm_symphony.engine.admission import Admission
from vllm_symphony.engine.cohort import Cohort
from vllm_symphony.engine.control import ControlMixin
from vllm_symphony.engine.device import FileDevice
from vllm_symphony.engine.gate import Gate
from vllm_symphony.engine.job import CLIENT, JOB_PREFIX
from vllm_symphony.engine.offer import offer
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.share import Share
from vllm_symphony.errors import DeviceLost
from vllm_symphony.kernel.effect import ForwardJob, StepRan

GOODBYE_S = 0.02  # without work, workers are told after so long what they may forget

_Base: Any = Scheduler if TYPE_CHECKING else object


class SymphonyMixin(_Base):
    """In front of vLLM's Scheduler or AsyncScheduler."""

    waiting: Any
    kv_holding_waiting: Any
    running: list[Request]
    device: FileDevice | None = None  # class-level defaults: vLLM calls us before `attach`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert not self.waiting and not self.kv_holding_waiting
        self.waiting = Gate(self._arrived)
        self.kv_holding_waiting = Gate(self._arrived)
        self.parked: dict[Request, str] = {}  # and why (admission.py)
        self.returning: dict[Request, None] = {}  # were at rest, go on in the next step
        self.requests_may_rest = False
        self.runnable = False
        self.plain_arrived = False
        self.say_goodbye = False  # the next step may be one in which workers only forget requests
        self.share = Share()
        self.cohort = Cohort()
        self.wake_at: float | None = None  # engine clock: look again although nothing arrived
        self.goodbye_at: float | None = None  # engine clock: nothing came since; workers forget what ended
        self.on_shutdown: Callable[[], None] = lambda: None
        self.on_look: Callable[[float], None] = lambda _: None  # a host whose loop is not ours is told `next_look` when it changes
        self._step_began = 0.0
        self._fired: frozenset[str] = frozenset()
        self._dropping = False
        self.num_preempted = 0
        self.num_steps = self.num_empty_steps = self.num_rows = 0

    def attach(self, device: FileDevice, wait_for_mail: Callable[[float], bool] | None) -> None:
        """Begin to serve files. From now on the device's mail is taken in `has_requests`, on the engine thread."""
        self.device = device
        self.admission = Admission(self, device)
        self.room = self.admission.room
        # asynchronous scheduling feeds sampled tokens to the next step on the device, where ours cannot replace them
        self.requests_may_rest = self.files_keep_pages and not self.scheduler_config.async_scheduling
        self.cohort.wait = wait_for_mail

    @property
    def files_keep_pages(self) -> bool:
        """Pages of files can be lent only where all layers attend to all tokens; elsewhere files are computed again through
        vLLM's prefix cache, which is right for every model."""
        return not self.pages_refusal

    @property
    def pages_refusal(self) -> str:
        """Which group of the KV cache keeps files from having pages; "" if none does."""
        specs = [group.kv_cache_spec for group in self.kv_cache_config.kv_cache_groups]
        others = sorted({type(spec).__name__ for spec in specs} - {FullAttentionSpec.__name__})
        if others:
            return f"some layers do not attend to all tokens ({', '.join(others)})"
        return "" if len(specs) == 1 else f"the KV cache has {len(specs)} groups"

    @property
    def surgery_refusal(self) -> str:
        """Which group keeps tokens from being moved in files, though these may have pages; "" if none does."""
        if self.pages_refusal:
            return self.pages_refusal
        (group,) = self.kv_cache_config.kv_cache_groups
        spec = group.kv_cache_spec  # vLLM keeps all of a window's tokens where it was told not to have several groups
        if spec.sliding_window is not None or spec.attention_chunk_size is not None:
            return f"some layers do not attend to all tokens (window {spec.sliding_window or spec.attention_chunk_size})"
        return ""

    # ---- what "work" means

    def _arrived(self, request: Request) -> None:
        self.runnable = True
        if request.client_index != CLIENT:
            named = salt.settle(request, self.hash_block_size)
            if named is not None and self.device is not None:
                offer(self.device, named)
            self.plain_arrived = True

    def room_was_made(self) -> None:
        """Blocks were freed or a file let go: look again, if anybody waits."""
        if self.parked or self.returning or self.num_held():
            self.runnable = True

    def has_requests(self) -> bool:
        if self.device is not None:
            if self.wake_at is not None and self.device.clock() >= self.wake_at:
                self.wake_at = None
                self.runnable = True
                self.look_then()
            self.device.take_mail()
        return bool(super().has_requests()) or (self.device is not None and self._rest(self.device))

    def _rest(self, device: FileDevice) -> bool:
        """There is nothing to compute. Workers forget ended requests and dropped rows once it has been quiet for a while; True: in
        a step of its own, now."""
        if not (self.finished_req_ids or device.rows.are_dropped):
            return False
        now = device.clock()
        if self.goodbye_at is None:
            self.goodbye_at = now + GOODBYE_S
            self.on_look(self.next_look() or now)
        if now < self.goodbye_at:
            return False
        self.goodbye_at = None
        device.rows.drop_now()
        self.say_goodbye = bool(self.finished_req_ids)
        return self.say_goodbye

    def wake_in(self, seconds: float) -> None:
        """Look again then."""
        assert self.device is not None
        self.wake_at = self.device.clock() + seconds
        self.on_look(self.next_look() or self.wake_at)

    def look_then(self) -> None:
        """When we must look has changed."""
        if (at := self.next_look()) is not None:
            self.on_look(at)

    def next_look(self) -> float | None:
        """By the engine clock: when the host must ask `has_requests` again although nothing arrives."""
        fetch_at = self.device.fetches.due_s if self.device is not None else None
        return min((t for t in (self.wake_at, self.goodbye_at, fetch_at) if t is not None), default=None)

    def num_held(self) -> int:
        return int(self.waiting.num_held + self.kv_holding_waiting.num_held)

    def get_request_counts(self) -> tuple[int, int]:
        waiting = len(self.waiting) + len(self.kv_holding_waiting) + self.num_held()
        return len(self.running) + len(self.parked) + len(self.returning), waiting

    def get_num_unfinished_requests(self) -> int:
        if self._pause_state == PauseState.PAUSED_ALL:
            return 0
        running = len(self.running) + len(self.parked) + len(self.returning)
        if self._pause_state != PauseState.UNPAUSED:
            return running + int(self.kv_holding_waiting.num_held)
        if not (self.runnable or self.running):
            return 0
        return running + self.num_held() - self.num_waiting_for_streaming_input

    def has_finished_requests(self) -> bool:
        """Requests that the workers must still forget. Those of file jobs ride on the next step: one of their own would delay."""
        if self.connector is None and not self.say_goodbye:
            return any(not rid.startswith(JOB_PREFIX) for rid in self.finished_req_ids)
        if self.connector is None:
            return bool(self.finished_req_ids)
        return bool(super().has_finished_requests())

    def set_pause_state(self, pause_state: PauseState) -> None:
        self.runnable = True
        super().set_pause_state(pause_state)

    # ---- the step

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        device = self.device
        if device is not None and self.cohort.expected:
            self.cohort.hold(self._streams(device), self._num_file_calls_held, lambda: self.plain_arrived)
        self._step_began = time.perf_counter()
        began_ns = time.monotonic_ns()
        self.plain_arrived = self.say_goodbye = False
        self.wake_at = self.goodbye_at = None
        if self._pause_state == PauseState.PAUSED_ALL:
            return super().schedule(throttle_prefills)
        self.unpark()
        if device is not None and (device.jobs or device.table.files):
            self.admission.admit()
            if self.admission.cuts:
                self.__dict__["_reserve_prefill_lookahead"] = self._reserve_in_cut
        else:
            self._admit_all()
        output: SchedulerOutput = super().schedule(throttle_prefills)
        if device is not None:
            self.admission.unstart()
        self.__dict__.pop("_reserve_prefill_lookahead", None)
        self.kv_holding_waiting.close()
        self.waiting.close()
        scheduled = output.num_scheduled_tokens
        self.runnable = bool(scheduled) or any(map(self._needs_polling, self.deferred_waiting))
        self.num_steps += 1
        self.num_rows += len(scheduled)
        self.num_empty_steps += not scheduled
        if device is not None:
            plan = device.plan(scheduled)
            output.symphony_step = (device.step, began_ns)
            if plan is not None:
                output.symphony = plan
            if device.jobs:
                requests = self.requests
                output.symphony_starts = {
                    rid: requests[rid].num_computed_tokens - n for rid, n in scheduled.items() if rid in device.jobs
                }
            device.flush()  # jobs that ended for want of room; a step without tokens may have no output
        return output

    def _reserve_in_cut(self, request: Request, num_computed_tokens: int, num_new_tokens: int) -> int:
        """The last that vLLM asks before it gives a request its tokens of the step; stands in for its method while some are cut."""
        allowed = min(num_new_tokens, self.admission.cuts.get(request, num_new_tokens))
        return int(super()._reserve_prefill_lookahead(request, num_computed_tokens, allowed))

    def _needs_polling(self, r: Request) -> bool:
        """vLLM waits for something else than pages; a file job's grammar tells us when it is compiled."""
        return r.client_index != CLIENT or r.status != RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR

    def unpark(self) -> None:
        """Give parked and returning requests back to vLLM's list of running ones: their status is RUNNING."""
        if self.parked or self.returning:
            parked = (r for r in self.parked if not r.is_finished())  # a step in flight may have been its last
            self.running = [*parked, *self.returning, *self.running]
            self.parked.clear()
            self.returning.clear()

    def wake(self, request: Request) -> None:
        """A request at rest got tokens: it runs in the next step."""
        self.returning[request] = None
        self.runnable = True

    def _admit_all(self) -> None:
        """Nothing of ours is there: vLLM chooses among all, as it would without us."""
        if len(self.running) + self.num_waiting_for_streaming_input >= self.max_num_active_reqs:
            return  # it would not look at them
        for gate in (self.kv_holding_waiting, self.waiting):
            held = [*gate.plain, *gate.calls]
            if self.policy == SchedulingPolicy.PRIORITY:
                held.sort()
            for request in held:
                gate.admit(request)

    def make_room(self, num_pages: int, born: float, keep: PagedFile | None = None) -> None:
        """Free that many pages as for a job of a file born then, if it can be done."""
        self.admission.make_room(num_pages, born, keep)

    # ---- cohort wait

    def _streams(self, device: FileDevice) -> float:
        """How many run by themselves, in programs that they are worth."""
        generates = sum(r.request_id in device.jobs for r in self.running)
        return generates + (len(self.running) - generates) * self.share.plain / self.share.programs

    def _num_file_calls_held(self) -> int:
        return self.admission.num_calls_held + len(self.returning)

    # ---- results

    def update_from_output(self, output: SchedulerOutput, result: ModelRunnerOutput) -> dict[int, EngineCoreOutputs]:
        device = self.device
        if device is None:
            return super().update_from_output(output, result)
        if device.jobs:
            self.__dict__.pop("_update_request_with_output", None)
        else:  # vLLM's own is called straight: ours would cost a call for each row
            self.__dict__["_update_request_with_output"] = super()._update_request_with_output
        rows = getattr(result, "symphony", None)
        if rows is not None:
            device.take_results(output.symphony, rows, output.symphony_starts)
            self._fired = rows.fired
        try:
            outputs: dict[int, EngineCoreOutputs] = super().update_from_output(output, result)
        finally:
            self._fired = frozenset()
        seconds = time.perf_counter() - self._step_began
        if output.num_scheduled_tokens:
            self.cohort.took(len(output.num_scheduled_tokens), seconds)
            device.charge(output.num_scheduled_tokens, seconds)
            step, began_ns = output.symphony_step
            num_calls, num_tokens = len(output.num_scheduled_tokens), output.total_num_scheduled_tokens
            device.ran(StepRan(step, began_ns, time.monotonic_ns(), num_calls, num_tokens))
        ours = outputs.pop(CLIENT, None)
        answered = 0
        if ours is not None:
            answered = self._report(device, ours)
            if ours.scheduler_stats is not None:
                outputs.setdefault(0, EngineCoreOutputs()).scheduler_stats = ours.scheduler_stats
        device.take_mail()  # what came during the step; programs that hear from us now come after it
        self.cohort.expected = self._num_file_calls_held() + answered
        device.flush()
        return outputs

    def _report(self, device: FileDevice, ours: EngineCoreOutputs) -> int:
        """Tell the device what its jobs got; returns how many forwards were answered."""
        answered = 0
        resting: set[Request] = set()
        for o in ours.outputs:
            job = device.jobs.get(o.request_id)
            finished = job is None
            if job is None:
                job = device.finished.pop(o.request_id, None)
                if job is None:
                    continue
            if isinstance(job.effect, ForwardJob):
                answered += 1
                if not finished:
                    resting.add(job.request)
                    device.report_at_rest(job)
            else:
                logprobs = o.new_logprobs.logprobs[: len(o.new_token_ids), 0].tolist() if o.new_logprobs is not None else []
                device.progress(job, o.new_token_ids, logprobs, finished)
            if finished:
                device.report(job, job.request.status, job.request.stop_reason)
        if resting:
            self.running = [r for r in self.running if r not in resting]
        return answered

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        device = self.device
        job = device.jobs.get(request.request_id) if device is not None else None
        if job is None or device is None:
            return super()._update_request_with_output(request, new_token_ids, is_stale)
        if request.request_id in self._fired:  # `until`: the token that was sampled does not exist
            if not is_stale and request.num_output_placeholders:  # asynchronous scheduling: publish as vLLM does after a token
                request.num_output_placeholders -= len(new_token_ids)
                self.kv_cache_manager.cache_blocks(request, request.num_computed_tokens - request.num_output_placeholders)
            new_token_ids.clear()
            request.status = RequestStatus.FINISHED_STOPPED
            request.stop_reason = "until"
            return new_token_ids, True
        tokens, stopped = super()._update_request_with_output(request, new_token_ids, is_stale)
        if not isinstance(job.effect, ForwardJob):
            stop = device.sampled(job, tokens, stopped)
            if stop is not None:
                request.status = RequestStatus.FINISHED_STOPPED
                request.stop_reason = stop
                stopped = True
        return tokens, stopped

    # ---- how requests end

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus) -> list[Request]:
        one = self.requests.get(request_ids) if isinstance(request_ids, str) else None
        if one is None or one in self.parked or one in self.returning:
            self.unpark()  # vLLM looks for them in `running`
        self.runnable = True
        device = self.device
        if device is not None and finished_status == RequestStatus.FINISHED_ABORTED and request_ids is None:
            for job in device.jobs.values():
                job.error = job.error or DeviceLost("the engine ended all requests")
        finished: list[Request] = super().finish_requests(request_ids, finished_status)
        return finished

    def _free_request_blocks(self, request: Request) -> None:
        self.room_was_made()
        device = self.device
        job = device.job_of_request(request.request_id) if device is not None else None
        if job is None or device is None:
            super()._free_request_blocks(request)
        elif self._dropping:
            if job.lent and job.file.edited:
                device.lending.give_back(job, job.file.fixed)
            else:
                super()._free_request_blocks(request)
            device.unlend(job)
        else:
            device.ended(job)

    def free_natively(self, request: Request) -> None:
        super()._free_request_blocks(request)

    def _preempt_request(self, request: Request, timestamp: float, drop_stale_output: bool = False) -> None:
        """vLLM's preemption gives up the request's blocks. Ours to call (room.py, rule 4); counted, also when vLLM does."""
        self.num_preempted += 1
        self._dropping = True
        try:
            super()._preempt_request(request, timestamp, drop_stale_output)
        finally:
            self._dropping = False

    def shutdown(self) -> None:
        self.on_shutdown()
        super().shutdown()

    # ---- seeing

    def symphony_counters(self) -> dict[str, float]:
        admission = self.admission if self.device is not None else None
        return {
            "parked": admission.num_parked if admission is not None else 0,
            "yielded": admission.num_yielded if admission is not None else 0,
            "preempted": self.num_preempted,
            "evicted": admission.room.num_evicted if admission is not None else 0,
            "out_of_room": admission.num_failed_room if admission is not None else 0,
            "waits": self.cohort.num_waits,
            "waited_s": self.cohort.waited_s,
            "weight_plain": self.share.plain,
            "weight_programs": self.share.programs,
            **(self.device.meter.served() if self.device is not None else {}),
            "engine_steps": self.num_steps,
            "empty_steps": self.num_empty_steps,
            "rows": self.num_rows,
            "running": len(self.running),
            "parked_now": len(self.parked),
            "held_now": self.num_held(),
        }


def scheduler_for(*, vllm_config: Any, **more: Any) -> SymphonyMixin:
    """Ours in place of the one that vLLM would choose for this config. A `scheduler_cls`, as vLLM names it."""
    cls = SymphonyAsyncScheduler if vllm_config.scheduler_config.async_scheduling else SymphonyScheduler
    return cls(vllm_config=vllm_config, **more)


class SymphonyScheduler(ControlMixin, SymphonyMixin, Scheduler):
    """Where vLLM would choose its Scheduler."""


class SymphonyAsyncScheduler(ControlMixin, SymphonyMixin, AsyncScheduler):
    """Where vLLM would choose its AsyncScheduler."""
