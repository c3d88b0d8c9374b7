"""Where edits are made on the engine (engine/bench.py): forks, forwards and slot copies of a FileDevice, as engine/edit.py asks.

Surgery --fork, compute--> FileDevice (forks with negative inos, forwards without a completion)
        --copy_slots-----> workers, by RPC between steps, which is in order with the steps
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.edit import Indices
from vllm_symphony.engine.job import FileJob
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.errors import Interrupted, SymphonyError
from vllm_symphony.kernel.effect import EditDone, ForwardJob, JobFailed, Owner, StepSpan

if TYPE_CHECKING:
    from vllm_symphony.engine.device import FileDevice


class EngineBench:
    """A `Bench` (engine/edit.py)."""

    def __init__(self, device: FileDevice) -> None:
        self.device = device
        self.table = device.table

    def fork_for_edit(self, src: Ino, length: int) -> PagedFile:
        source = self.table.files[src]
        fork = self.device.temp_fork(source, length)
        fork.born = source.born
        return fork

    def compute(self, f: PagedFile, owner: Owner, on_done: Callable[[SymphonyError | None, StepSpan], None]) -> None:
        def done(job: FileJob) -> None:
            on_done(job.error, job.span)

        pending = ForwardJob(JobId(self.device.temp_id()), f.ino, [], 0, (), 0, (), 1.0, False, owner)
        self.device.submit_forward(pending, done)

    def stop_computing(self, f: PagedFile) -> None:
        job = self.device.job_of(f)
        if job is not None:
            self.device.fail(job, Interrupted("the edit has ended"))

    def make_room(self, num_pages: int, born: float) -> bool:
        scheduler = self.device.scheduler
        scheduler.make_room(num_pages, born)
        if (stale_in := scheduler.room.next_stale()) is not None:
            scheduler.wake_in(stale_in)
        return scheduler.room.may_get(born, self.device.jobs.values())

    def copy_slots(self, src: Indices, dst: Indices, delta: Indices | None) -> None:
        self.device.rpc("symphony_copy_slots", args=(src, dst, delta))

    def drop_fork(self, f: PagedFile) -> None:
        self.device.tiers.forget(f)
        self.table.drop(f)
        self.device.released()

    def now(self) -> float:
        return self.device.clock()

    def edit_ended(self, job: JobId, completion: EditDone | SymphonyError, span: StepSpan) -> None:
        del self.device.by_id[job]
        self.device.out.append(completion if isinstance(completion, EditDone) else JobFailed(job, completion, span))
