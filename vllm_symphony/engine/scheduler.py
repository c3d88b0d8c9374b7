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
from vllm_symphony.engine.device import FileDevice
from vllm_symphony.engine.gate import Gate
from vllm_symphony.engine.job import CLIENT, JOB_PREFIX, FileJob
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.engine.room import STALE_S, Room
from vllm_symphony.errors import DeviceLost, OutOfPages, SymphonyError
from vllm_symphony.kernel.effect import ForwardJob, StepRan

GOODBYE_S = 0.02  # without work, workers are told after so long what they may forget
WINDOW_S = 0.002  # the cohort wait ends when nothing has arrived for this long ...
WINDOW_OF_STEP = 0.05  # ... or for this share of a recent step, if that is longer ...
WINDOW_SHARE = 1.0  # ... or when it has lasted this share of a recent step: never longer than the step that it may save
WINDOW_SHARE_STREAMS = 0.2  # the same while streams run, which a hold delays


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
        self.parked: dict[Request, None] = {}
        self.returning: dict[Request, None] = {}  # were at rest, go on in the next step
        self.requests_may_rest = False
        self.runnable = False
        self.plain_arrived = False
        self.say_goodbye = False  # the next step may be one in which workers only forget requests
        self.window_s = WINDOW_S
        self.wait_for_mail: Callable[[float], bool] | None = None  # True: something was taken
        self.wake_at: float | None = None  # engine clock: look again although nothing arrived
        self.goodbye_at: float | None = None  # engine clock: nothing came since; workers forget what ended
        self.on_shutdown: Callable[[], None] = lambda: None
        self.on_look: Callable[[float], None] = lambda _: None  # a host whose loop is not ours is told `next_look` when it changes
        self._expected = 0  # file calls: those that waited when the last step ended, and one from each program that it answered
        self._step_s = 0.0
        self._step_began = 0.0
        self._fired: frozenset[str] = frozenset()
        self._dropping = False
        self._clock_offset = time.time() - time.monotonic()
        self.num_parked = self.num_preempted = self.num_waits = self.num_failed_room = 0
        self.waited_s = 0.0
        self.num_steps = self.num_empty_steps = self.num_rows = 0

    def attach(self, device: FileDevice, wait_for_mail: Callable[[float], bool] | None) -> None:
        """Begin to serve files. From now on the device's mail is taken in `has_requests`, on the engine thread."""
        self.device = device
        self.room = Room(device.table, device.tiers, device.clock, device.retire_all)
        # asynchronous scheduling feeds sampled tokens to the next step on the device, where ours cannot replace them
        self.requests_may_rest = self.files_keep_pages and not self.scheduler_config.async_scheduling
        self.wait_for_mail = wait_for_mail

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
            salt.settle(request, self.hash_block_size)
            self.plain_arrived = True

    def room_was_made(self) -> None:
        """Blocks were freed or a file let go: look again, if anybody waits."""
        if self.parked or self.returning or self.waiting.held or self.kv_holding_waiting.held:
            self.runnable = True

    def has_requests(self) -> bool:
        if self.device is not None:
            if self.wake_at is not None and self.device.clock() >= self.wake_at:
                self.wake_at = None
                self.runnable = True
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

    def next_look(self) -> float | None:
        """By the engine clock: when the host must ask `has_requests` again although nothing arrives."""
        return min((t for t in (self.wake_at, self.goodbye_at) if t is not None), default=None)

    def _num_held(self) -> int:
        return len(self.waiting.held) + len(self.kv_holding_waiting.held)

    def get_request_counts(self) -> tuple[int, int]:
        waiting = len(self.waiting) + len(self.kv_holding_waiting) + self._num_held()
        return len(self.running) + len(self.parked) + len(self.returning), waiting

    def get_num_unfinished_requests(self) -> int:
        if self._pause_state == PauseState.PAUSED_ALL:
            return 0
        running = len(self.running) + len(self.parked) + len(self.returning)
        if self._pause_state != PauseState.UNPAUSED:
            return running + len(self.kv_holding_waiting.held)
        if not (self.runnable or self.running):
            return 0
        return running + self._num_held() - self.num_waiting_for_streaming_input

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
        if device is not None:
            self._cohort_wait()
        self._step_began = time.perf_counter()
        began_ns = time.monotonic_ns()
        self.plain_arrived = self.say_goodbye = False
        self.wake_at = self.goodbye_at = None
        if self._pause_state == PauseState.PAUSED_ALL:
            return super().schedule(throttle_prefills)
        self._unpark()
        if device is not None and (device.jobs or device.table.files):
            self._admit_by_room(device)
        else:
            self._admit_all()
        output: SchedulerOutput = super().schedule(throttle_prefills)
        if device is not None:
            self._unstart(device)
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

    def _needs_polling(self, r: Request) -> bool:
        """vLLM waits for something else than pages; a file job's grammar tells us when it is compiled."""
        return r.client_index != CLIENT or r.status != RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR

    def _unpark(self) -> None:
        """Give parked and returning requests back to vLLM's list of running ones: their status is RUNNING."""
        if self.parked or self.returning:
            self.running = [*self.parked, *self.returning, *self.running]
            self.parked.clear()
            self.returning.clear()

    def wake(self, request: Request) -> None:
        """A request at rest got tokens: it runs in the next step."""
        self.returning[request] = None
        self.runnable = True

    def _admit_all(self) -> None:
        for gate in (self.kv_holding_waiting, self.waiting):
            held = list(gate.held)
            if self.policy == SchedulingPolicy.PRIORITY:
                held.sort()
            for request in held:
                gate.admit(request)

    def _admit_by_room(self, device: FileDevice) -> None:
        while True:
            jobs = device.jobs
            free = device.table.pool.get_num_free_blocks()
            held = [*self.kv_holding_waiting.held, *self.waiting.held]
            waiting_jobs = [jobs[r.request_id] for r in held if r.request_id in jobs]
            keep: list[Request] = []
            for r in sorted(self.running, key=self._age):
                need = self._need_running(r)
                if need > free:
                    free += self.room.reclaim(need - free, self._age(r), waiting_jobs, None)
                if need <= free and len(keep) < self.max_num_active_reqs:
                    free -= need
                    keep.append(r)
                else:
                    self.parked[r] = None
                    self.num_parked += 1
            self.running[:] = keep
            admitted = self._admit_waiting(device, held, waiting_jobs, free)
            if self.running or admitted or not (self.parked or self._num_held()):
                break
            if not self._force_room(device):
                break

    def _admit_waiting(self, device: FileDevice, held: list[Request], waiting_jobs: list[FileJob], free: int) -> int:
        slots = self.max_num_active_reqs - len(self.running) - len(self.parked) - self.num_waiting_for_streaming_input
        admitted = 0
        ready = self._ready(device, held)
        self.room.claims.look({r: self._age(r) for r in ready}, device.surgery.claims)
        for r in ready:
            if admitted >= slots:
                break
            job = device.jobs.get(r.request_id)
            is_below = job is not None and not job.lent and device.tiers.is_below(job.file, job.lowest)
            if job is not None and is_below and job.file.move is not None:
                device.tiers.load(job.file)
                continue
            need, free = self._find_room(device, r, is_below, waiting_jobs, free)
            if need is None:
                continue  # those behind it may pass, for a while
            if job is not None and is_below:
                free -= device.tiers.load(job.file)
                continue
            self._admit(device, r)
            free -= need
            admitted += 1
        return admitted

    def _ready(self, device: FileDevice, held: list[Request]) -> list[Request]:
        """Those that could begin, in the policy's order: whose grammars are compiled. Those whose pages are damaged end here, and
        what waits only for these."""
        not_ready = set()
        for r in held:
            job = device.jobs.get(r.request_id)
            if job is None:
                continue
            try:
                if not device.grammars.ready(job):
                    not_ready.add(r)
                elif not job.lent:
                    device.tiers.is_below(job.file, job.lowest)
            except SymphonyError as error:
                device.fail(job, error)
        still_held = (r for r in held if r in self.waiting.held or r in self.kv_holding_waiting.held)
        return sorted((r for r in still_held if r not in not_ready), key=self._order)

    def _find_room(
        self, device: FileDevice, r: Request, is_below: bool, waiting_jobs: list[FileJob], free: int
    ) -> tuple[int | None, int]:
        """How many pages it takes, None: it must wait; and how many are free now."""
        claims, age = self.room.claims, self._age(r)
        if (need := self._need_waiting(device, r)) and not claims.allow(age, is_below):
            return None, free
        if need > free:
            job = device.jobs.get(r.request_id)
            free += self.room.reclaim(need - free, age, waiting_jobs, job.file if job is not None else None)
            need = self._need_waiting(device, r)  # also where nothing became free: a page that nobody shares any more needs no copy
        if need > free:
            claims.missed(r, age, pages_move=device.tiers.busy, waited_long=time.time() - r.arrival_time > STALE_S)
            return None, free
        claims.met(r)
        return need, free

    def _admit(self, device: FileDevice, r: Request) -> None:
        """To vLLM's next step, with its file's pages."""
        gate = self.waiting if r in self.waiting.held else self.kv_holding_waiting
        if (job := device.jobs.get(r.request_id)) is not None:
            device.tiers.disturb(job.file)
            if device.lending.start(job) and gate is self.waiting:
                gate.take(r)
                gate = self.kv_holding_waiting
                gate.held[r] = None
        gate.admit(r)

    def _unstart(self, device: FileDevice) -> None:
        """Jobs that vLLM did not take after all (no token left in the step's budget) wait with their pages in their files."""
        for gate in (self.kv_holding_waiting, self.waiting):
            for r in list(gate.open):
                job = device.jobs.get(r.request_id)
                if job is None or not job.lent:
                    continue
                device.lending.unstart(job)
                if gate is self.kv_holding_waiting:
                    gate.open.remove(r)
                    self.waiting.open.append(r)

    def _force_room(self, device: FileDevice) -> bool:
        """Nothing can move: preempt the youngest parked job, or end the oldest one that cannot be helped. True: look again."""
        if device.tiers.busy:
            return False  # what moves makes room, or is waited for
        waiting = [*self.parked, *self.kv_holding_waiting.held, *self.waiting.held]
        ready = [r for r in waiting if r.status != RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR]
        if not ready:
            return False
        oldest = min(ready, key=self._age)
        victims = sorted((r for r in self.parked if r is not oldest), key=self._age)
        if victims:
            victim = victims[-1]
            del self.parked[victim]
            self._preempt_request(victim, time.monotonic())
            self._unpark()
            return True
        if (stale_in := self.room.next_stale()) is not None:
            self.wake_in(stale_in)
            return False
        job = device.jobs.get(oldest.request_id)
        if job is None:
            return False  # a plain request larger than the cache: vLLM's own rules
        self.num_failed_room += 1
        self._unpark()
        need, total = device.table.pages(oldest.num_tokens), device.table.num_pages
        device.fail(job, OutOfPages(f"{oldest.num_tokens} tokens need {need} pages of {total}, and nothing more can be freed"))
        return True

    def make_room(self, num_pages: int, born: float, keep: PagedFile | None = None) -> None:
        """Free that many pages as for a job of a file born then, if it can be done."""
        device = self.device
        assert device is not None
        held = [*self.kv_holding_waiting.held, *self.waiting.held]
        self.room.reclaim(num_pages, born, [device.jobs[r.request_id] for r in held if r.request_id in device.jobs], keep)

    # ---- arithmetic

    def _num_blocks(self, r: Request) -> int:
        return len(self.kv_cache_manager.coordinator.single_type_managers[0].req_to_blocks.get(r.request_id, ()))

    def _need_waiting(self, device: FileDevice, r: Request) -> int:
        job = device.jobs.get(r.request_id)
        return device.table.pages(r.num_tokens) - self._num_blocks(r) if job is None else device.lending.pages_needed(job)

    def _need_running(self, r: Request) -> int:
        upto = r.num_tokens_with_spec + r.num_output_placeholders
        return max(0, -(-upto // self.block_size) - self._num_blocks(r))

    def _age(self, r: Request) -> float:
        """When the file was made, or the plain request arrived, on one clock; smaller is older."""
        device = self.device
        if device is not None and (job := device.jobs.get(r.request_id)) is not None:
            return job.file.born
        return r.arrival_time - self._clock_offset

    def _order(self, r: Request) -> tuple[float, float]:
        """The process policy's key, then arrival; plain requests are programs of one call."""
        device = self.device
        if device is not None and (job := device.jobs.get(r.request_id)) is not None:
            return job.effect.order[0], r.arrival_time
        return float(r.priority), r.arrival_time

    # ---- cohort wait

    def _cohort_wait(self) -> None:
        """Hold the step a little while programs that the last step answered are about to call again.

        It ends when all have, when nothing has arrived for a while (they compute, wait for a tool, or have ended), when a plain
        request arrives, or when it has lasted as long as the step that it may save.
        """
        queued = self._num_file_calls_held()
        if not self.window_s or self.wait_for_mail is None or not 0 < queued < self._expected or self.plain_arrived:
            return
        began = time.perf_counter()
        limit = began + (WINDOW_SHARE_STREAMS if self.running else WINDOW_SHARE) * self._step_s
        silence = max(self.window_s, WINDOW_OF_STEP * self._step_s)
        self.num_waits += 1
        while queued < self._expected and not self.plain_arrived:
            left = min(silence, limit - time.perf_counter())
            if left <= 0 or not self.wait_for_mail(left):
                break
            queued = self._num_file_calls_held()
        self.waited_s += time.perf_counter() - began

    def _num_file_calls_held(self) -> int:
        held = sum(1 for gate in (self.waiting, self.kv_holding_waiting) for r in gate.held if r.client_index == CLIENT)
        return held + len(self.returning)

    # ---- results

    def update_from_output(self, output: SchedulerOutput, result: ModelRunnerOutput) -> dict[int, EngineCoreOutputs]:
        device = self.device
        if device is None:
            return super().update_from_output(output, result)
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
            self._step_s = seconds if not self._step_s else 0.7 * self._step_s + 0.3 * seconds
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
        self._expected = self._num_file_calls_held() + answered
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
            self._unpark()  # vLLM looks for them in `running`
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
        return {
            "parked": self.num_parked,
            "preempted": self.num_preempted,
            "evicted": self.room.num_evicted if self.device is not None else 0,
            "out_of_room": self.num_failed_room,
            "waits": self.num_waits,
            "waited_s": self.waited_s,
            "engine_steps": self.num_steps,
            "empty_steps": self.num_empty_steps,
            "rows": self.num_rows,
            "running": len(self.running),
            "parked_now": len(self.parked),
            "held_now": self._num_held(),
        }


def scheduler_for(*, vllm_config: Any, **more: Any) -> SymphonyMixin:
    """Ours in place of the one that vLLM would choose for this config. A `scheduler_cls`, as vLLM names it."""
    cls = SymphonyAsyncScheduler if vllm_config.scheduler_config.async_scheduling else SymphonyScheduler
    return cls(vllm_config=vllm_config, **more)


class SymphonyScheduler(SymphonyMixin, Scheduler):
    """Where vLLM would choose its Scheduler."""


class SymphonyAsyncScheduler(SymphonyMixin, AsyncScheduler):
    """Where vLLM would choose its AsyncScheduler."""
