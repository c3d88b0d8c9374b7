"""A file's pages in the hands of a vLLM request (engine/lending.py).

    file.blocks --start--> request's block table --[ steps grow it ]--> give_back --> file.blocks

An explicit block table with `num_computed_tokens > 0` makes vLLM take the branch for requests that already hold KV; nothing of the
hash lookup is involved. The request's blocks are a file's only while they are lent, so vLLM's own clean-up may also take them
(`lost`: preemption) and the file is computed again.
Source: vllm/v1/core/single_type_kv_cache_manager.py (`req_to_blocks`, `num_cached_block`, `_pending_cow_copies`), 0.32.
"""

from __future__ import annotations

from typing import Any

from vllm_symphony.engine.job import FileJob
from vllm_symphony.engine.page_table import NEVER_CACHED, Lent, PageTable


class Lending:
    """`keeps_pages` False: not all layers attend to all tokens, so files keep no pages and vLLM frees them itself."""

    def __init__(self, table: PageTable, managers: Any, keeps_pages: bool) -> None:
        self.table = table
        self.managers = managers
        self.manager = managers[0]
        self.keeps_pages = keeps_pages

    def blocks(self, job: FileJob) -> list[Any]:
        found: list[Any] = self.manager.req_to_blocks.get(job.request.request_id, [])
        return found

    def of(self, job: FileJob) -> Lent:
        """What a fork may share of a file whose request is running."""
        r = job.request
        return Lent(self.blocks(job), max(0, r.num_computed_tokens - r.num_in_flight_tokens), r.block_hashes)

    def pages_needed(self, job: FileJob) -> int:
        """Free blocks that the job takes when it is admitted now."""
        if job.lent:
            return max(0, self.table.pages(job.num_tokens) - len(self.blocks(job)))
        return self.table.pages_to_lend(job.file, self._first(job), job.num_tokens)

    def _first(self, job: FileJob) -> int:
        """Index of the first token to compute."""
        return min(job.file.frontier, job.lowest) if self.keeps_pages else 0

    def start(self, job: FileJob) -> bool:
        """Lend the file's pages to the request; True when it begins with KV (and belongs into vLLM's queue for such requests)."""
        if job.lent:
            return job.request.num_computed_tokens > 0
        f, rid, manager = job.file, job.request.request_id, self.manager
        computed = self._first(job)
        job.lent = True
        job.began_at = computed
        if computed:
            blocks = manager.req_to_blocks[rid] = self.table.lend(f, computed, manager._pending_cow_copies)
            manager.num_cached_block[rid] = NEVER_CACHED if f.private else self._publish(job, blocks, computed)
            job.request.num_computed_tokens = computed
            return True
        if f.blocks:
            self.table.evict(f)
        if f.private:
            for m in self.managers:
                m.num_cached_block[rid] = NEVER_CACHED
        return False

    def _publish(self, job: FileJob, blocks: list[Any], computed: int) -> int:
        """Pages that came back from below are in no prefix cache, and vLLM publishes a block once or dies: another fork with the
        same pages would do it again, perhaps in the same step. So it is done here. Returns how many leading ones are published."""
        f, size = job.file, self.table.page_size
        full, request = computed // size, job.request
        if len(request.block_hashes) < full:
            return f.num_cached  # there is no prefix cache
        pool: Any = self.table.pool
        for i in range(f.num_cached, full):
            if blocks[i].block_hash is None:
                pool.cache_full_blocks(request, blocks, i, i + 1, size, 0)  # files have pages in one group only
        return max(f.num_cached, full)

    def give_back(self, job: FileJob, computed: int) -> None:
        """The request lets go: the file has its pages again, with KV for `computed` tokens. Only where files keep pages."""
        rid, r = job.request.request_id, job.request
        blocks, num_cached = self.manager.req_to_blocks.get(rid, []), self.manager.num_cached_block.get(rid, 0)
        for m in self.managers:
            m.pop_blocks_for_free(rid)
        if self.keeps_pages:
            self.table.take_back(job.file, blocks, computed, num_cached, r.block_hashes.copy())

    def unstart(self, job: FileJob) -> None:
        """vLLM did not take the job into the step that it was admitted to: the file gets its pages back, others may need them."""
        self.give_back(job, job.request.num_computed_tokens)
        job.request.num_computed_tokens = 0
        job.lent = False

    def lost(self, job: FileJob) -> None:
        """vLLM takes the request's blocks away (preemption): the job starts over, with what it has sampled. An edited file got
        its fixed part back before."""
        job.lent = False
        job.lowest = job.file.fixed if job.file.edited else min(job.lowest, job.file.below)
        if not job.file.edited:
            job.file.frontier = job.file.num_cached = 0
            job.file.hashes = []
