"""Where edits are made in the simulator (engine/sim/edit.py): the slots of blocks, as engine/edit.py asks.

A slot holds (token, position), so a copied one says where its token stood, and turning a key is changing the position: what the
model then sees of a file is what was really copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.engine.edit import Indices
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.errors import Interrupted, SymphonyError
from vllm_symphony.kernel.effect import EditDone, ForwardJob, JobFailed, Owner, StepSpan

if TYPE_CHECKING:
    from vllm_symphony.engine.sim.core import SimCore
    from vllm_symphony.engine.sim.job import SimJob


class SimBench:
    """A `Bench` (engine/edit.py). Forks and their jobs have negative numbers."""

    def __init__(self, core: SimCore) -> None:
        self.core = core
        self.table = core.table
        self._last_id = 0

    def fork_for_edit(self, src: Ino, length: int) -> PagedFile:
        fork = self.core.fork_file(src, Ino(self._next_id()), length)
        fork.born = self.table.files[src].born
        return fork

    def compute(self, f: PagedFile, owner: Owner, on_done: Callable[[SymphonyError | None, StepSpan], None]) -> None:
        def done(job: SimJob, error: SymphonyError | None) -> None:
            on_done(error, job.span)

        pending = ForwardJob(JobId(self._next_id()), f.ino, [], 0, (), 0, (), 1.0, False, owner)
        self.core.begin_forward(pending, done)

    def stop_computing(self, f: PagedFile) -> None:
        if f.job is not None:
            self.core.fail(self.core.jobs[f.job], Interrupted("the edit has ended"))

    def make_room(self, num_pages: int, born: float) -> bool:
        self.core.room.reclaim(num_pages, born, None)
        return self.core.room.may_get(born, self.core.jobs.values())

    def copy_slots(self, src: Indices, dst: Indices, delta: Indices | None) -> None:
        blocks, size = self.core.pool.blocks, self.table.page_size
        moves = delta.tolist() if delta is not None else [0] * len(src)
        taken = [blocks[s // size].slots[s % size] for s in src.tolist()]
        for (token, position), d, move in zip(taken, dst.tolist(), moves, strict=True):
            blocks[d // size].slots[d % size] = (token, position + move)

    def drop_fork(self, f: PagedFile) -> None:
        self.core.tiers.forget(f)
        self.table.drop(f)

    def now(self) -> float:
        return self.core.now()

    def edit_ended(self, job: JobId, completion: EditDone | SymphonyError, span: StepSpan) -> None:
        self.core.out.append(completion if isinstance(completion, EditDone) else JobFailed(job, completion, span))

    def _next_id(self) -> int:
        self._last_id -= 1
        return self._last_id
