"""Who gives up pages, and how (engine/victim.py): the memory policy is asked, within the rules of engine/room.py.

    copies of all its pages exist below   -> its pages go at once
    else the policy's ways, least waste first, and of these the first that has room:
        host memory, disk                 -> demoted there
        none                              -> its pages go; its tokens rebuild them
    edited, and no room anywhere          -> it keeps them (but those behind its fixed part)

Pinned files never give, whatever a policy says (kernel/sched/memory/policy.py). Costs are measured here as they happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from vllm_symphony.engine.page_table import PagedFile, PageTable
from vllm_symphony.engine.resident import Residents, Thread
from vllm_symphony.kernel.effect import ProcessBegan, ProcessEnded, Rests, Resumes, SetPolicy, Weigh
from vllm_symphony.kernel.sched import memory
from vllm_symphony.kernel.sched.memory.cost import Measured
from vllm_symphony.kernel.sched.memory.policy import Way, by_cost, reload_s
from vllm_symphony.kernel.sched.predict import Predictor

Heard = ProcessBegan | ProcessEnded | Rests | Resumes | Weigh | SetPolicy


class Below(Protocol):
    """What the tiers say of a file (engine/tier.py)."""

    def num_missing(self, f: PagedFile) -> int:
        """Pages on the device that have no copy below."""

    def num_loose(self, f: PagedFile) -> int:
        """Pages on the device that it can lose as it is."""

    def host_takes(self, f: PagedFile, num_pages: int) -> bool: ...

    def disk_takes(self, f: PagedFile, num_pages: int) -> bool: ...


class Victims:
    """`busy_tokens`: KV that calls in the batch hold, as the device says before it makes room."""

    def __init__(self, table: PageTable, step_tokens: int, clock: Callable[[], float], predictor: Predictor | None = None) -> None:
        self.clock = clock
        self.holders = table.holders
        self.holders.yields_s = self.yields_s
        self.predictor = predictor or Predictor()
        self.residents = Residents(table.page_size, self.predictor, clock)
        self.measured = Measured(step_tokens)
        self.busy_tokens = 0
        self.num_fetched = 0  # files, ahead of their jobs (engine/fetch.py)
        self.name = memory.DEFAULT
        self.policy = memory.make(self.name, self.predictor)

    def hear(self, e: Heard) -> Thread | None:
        """What the kernel tells of programs, as far as it is about memory. The thread that begins or ends to wait, if files are
        its."""
        if isinstance(e, Rests | Resumes):
            thread = self.residents.rests(e) if isinstance(e, Rests) else self.residents.resumes(e)
            for f in thread.files if thread is not None else ():
                self.holders.rekey(f)
            return thread
        if isinstance(e, ProcessEnded):
            for f in self.residents.gone(e.pid):
                self.holders.rekey(f)
        elif isinstance(e, SetPolicy) and e.level == "memory":
            self.choose(e.name, dict(e.parameters))
        return None

    def ended(self, f: PagedFile) -> None:
        """No job is on the file any more."""
        self.residents.ends(f)
        self.holders.rekey(f)

    def started(self, f: PagedFile) -> None:
        """A job on the file has its pages."""
        waited_s = self.residents.started(f)
        if waited_s is not None:
            self.measured.requeued(waited_s)

    def choose(self, name: str, parameters: Mapping[str, float]) -> None:
        """Another policy from here on. Raises InvalidArgument."""
        self.policy, self.name = memory.make(name, self.predictor, parameters), name
        self.holders.rekey_all()

    def yields_s(self, f: PagedFile) -> float:
        """By the clock: from when on anybody's job may take its pages; until then only older ones."""
        return self.policy.yields_s(self.residents.view(f), self.measured.costs(self.busy_tokens), self.clock())

    def counters(self) -> dict[str, float]:
        counters: dict[str, float] = {"fetched_files": self.num_fetched}
        for quantity, error in self.predictor.errors.items():
            counters |= {f"predicted_{quantity}": error.actual, f"prediction_off_{quantity}": error.off}
        return counters

    def spared_s(self, f: PagedFile) -> float:
        """By the clock: until then it keeps its pages even if the device has nothing else to do. It has been idle for as long as
        bringing them back takes: so what is lost by moves that are undone at once is no more than what was lost by waiting."""
        r, costs = self.residents.view(f), self.measured.costs()
        return f.last_used + reload_s(r, by_cost(r, costs)[0], costs)

    def order(self, files: Iterable[PagedFile]) -> list[PagedFile]:
        """Who gives first."""
        costs, now_s = self.measured.costs(self.busy_tokens), self.clock()
        ranks = {f: self.policy.rank(self.residents.view(f), costs, now_s) for f in files}
        return sorted(ranks, key=lambda f: (ranks[f], f.last_used))

    def way(self, f: PagedFile, below: Below) -> Way | None:
        """How it gives; None: it gives nothing."""
        if f.pinned or f.held:
            return None
        missing = below.num_missing(f)
        if not missing:
            return Way.DROP
        for way in self.policy.ways(self.residents.view(f), self.measured.costs(self.busy_tokens)):
            if way is Way.DROP or (below.host_takes if way is Way.HOST else below.disk_takes)(f, missing):
                return way
        return Way.DROP if below.num_loose(f) else None
