"""Moves of pages, as they are asked of the workers (engine/move.py).

    device block --out--> host slot --bring--> device block
    device block or host slot --write--> segment --read--> device block

One `Orders` is one file's move; `Move` is what the engine thread knows of it. It goes to each worker by RPC between steps, in
order with them, is carried out by the worker's copy thread (engine/mover.py), and is answered by one `Moved`. Block and slot
numbers are the same on all workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vllm_symphony.abi.record import SavedPage
from vllm_symphony.engine.page_copy import PageCopy
from vllm_symphony.engine.page_table import PagedFile
from vllm_symphony.errors import SymphonyError
from vllm_symphony.kernel.effect import MoveJob, SaveJob


@dataclass(frozen=True, slots=True)
class Source:
    """A page to write: of a device block, or of a host slot; `num_tokens` of it are good."""

    num_tokens: int
    block: int | None = None
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """One segment. `name` begins with `spill-` when it need not last."""

    name: str
    pages: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Orders:
    """out: (block, slot); bring: (slot, block); read: (segment, slot in it, block); publish: segments held, that shall last."""

    move: int
    out: tuple[tuple[int, int], ...] = ()
    bring: tuple[tuple[int, int], ...] = ()
    write: tuple[Write, ...] = ()
    read: tuple[tuple[str, int, int], ...] = ()
    publish: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Moved:
    """All of it is done, or `error`: then nothing that was ordered may be relied on."""

    move: int
    error: SymphonyError | None = None


class Mover(Protocol):
    """Who carries pages. All calls come from the thread that steps; none waits for a copy."""

    page_bytes: int

    def begin(self, orders: Orders) -> None: ...

    def cancel(self, move: int) -> None:
        """Leave out what is not done; `Moved` still comes."""

    def ended(self) -> Sequence[Moved]:
        """What has ended since the last call."""


@dataclass(slots=True, eq=False)
class Move:
    """Pages [first, first + len(copies)) of a file on their way. `goal`: where they shall be, or "save". `upto`: tokens of the file
    that it is about, fewer when the file is cut meanwhile. `blocks`: page -> the block read or filled. `made`: copies that are new.
    `gives`: the file gives its blocks up when it is done."""

    id: int
    file: PagedFile | None
    goal: str
    upto: int
    first: int = 0
    blocks: dict[int, Any] = field(default_factory=dict)
    copies: list[PageCopy] = field(default_factory=list)
    saved: dict[int, SavedPage] = field(default_factory=dict)  # page -> where it will be on disk
    job: MoveJob | SaveJob | None = None
    gives: bool = False
    num_moved: int = 0
    began_s: float = 0.0
    cancelled: bool = False
