"""A file: tokens with positions, their lineage, and who holds it (kernel/fs/inode.py).

    index        0 1 2 3 4 5 6
    tokens       a b c d e f g         what the program wrote
    position     0 1 2 3 9 10 11       runs = [(0, 0), (4, 9)]: a run begins where positions jump
    frontier           ^               KV is computed for what lies before; the device's business, shown in `stat`

This is identity. Which pages hold the file on the device is the engine's truth. The length grows only when a job is *done*, so
nobody sees tokens of a forward that may still fail. A file lives while it has a name, an open fd or a job.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

from vllm_symphony.abi.record import SavedPage, cut_pages
from vllm_symphony.abi.types import Ino, JobId
from vllm_symphony.errors import FileBusy, StaleFile
from vllm_symphony.kernel.fs import recipe
from vllm_symphony.kernel.fs.node import Node
from vllm_symphony.kernel.fs.sampling import Sampling

if TYPE_CHECKING:
    from vllm_symphony.kernel.fs.lock import FileLock

EXACT = "exact"
LINEAGE = (EXACT, "pruned", "approximate")  # how far keys and values are from what the tokens give


class Inode(Node):
    """One file. `writer` is the job that may change it, `readers` the jobs that look at rows of it.

    domain        the prefix cache that its pages are published in: of who wrote it
    fidelity      `exact`, `pruned` or `approximate`; `recipe` is how an edited one is made again (kernel/fs/recipe.py)
    saved         its pages on disk, under `fingerprint`; `stale`: they are of another one
    kept          how many leading tokens the store has as they are
    """

    __slots__ = (
        "domain", "fidelity", "fingerprint", "frontier", "indexed_ns", "kept", "lock", "longest", "next_position", "num_open",
        "pinned", "readers", "recipe", "runs", "sampling", "saved", "stale", "tokens", "writer",
    )  # fmt: skip
    kind = "file"

    def __init__(self, ino: Ino, owner: str, group: str, mode: int, domain: str, now_ns: int) -> None:
        super().__init__(ino, owner, group, mode, now_ns)
        self.domain = domain
        self.tokens = array("I")
        self.runs: list[tuple[int, int]] = []
        self.next_position = 0
        self.frontier = 0
        self.longest = 0  # it was when it was cut
        self.num_open = 0
        self.writer: JobId | None = None
        self.readers: set[JobId] = set()
        self.sampling = Sampling()
        self.lock: FileLock | None = None
        self.pinned = False
        self.fidelity = EXACT
        self.recipe: bytes | None = None
        self.saved: tuple[SavedPage, ...] = ()
        self.fingerprint = ""
        self.stale = False
        self.kept = 0
        self.indexed_ns = 0  # of the text that the search index knows: when it was changed, by the wall clock

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def is_busy(self) -> bool:
        return self.writer is not None or bool(self.readers)

    @property
    def is_dead(self) -> bool:
        """Nobody can reach it any more."""
        return not (self.num_open or self.names or self.writer is not None or self.readers)

    def demand_free(self) -> None:
        """Raises FileBusy while another call writes the file."""
        if self.writer is not None:
            raise FileBusy(f"another call is writing the file (ino {self.ino})", ino=self.ino)

    def demand_quiet(self) -> None:
        """Raises FileBusy while any job runs on the file."""
        if self.is_busy:
            raise FileBusy(f"another call runs on the file (ino {self.ino})", ino=self.ino)

    def demand_fresh(self) -> None:
        """Raises StaleFile for an edited file whose keys and values are gone: its tokens do not give them."""
        if self.stale and self.fidelity != EXACT:
            raise StaleFile(
                f"the pages of ino {self.ino} are of another model or were not saved, and it was edited ({self.fidelity}): `fsck "
                "--rebuild` makes them again, its tokens can be read",
                ino=self.ino,
            )

    def extend(self, tokens: list[int], start: int, now_ns: int) -> None:
        """More tokens, the first at position `start`; all was checked before."""
        if not tokens:
            return
        self._touch(now_ns)
        if start != self.next_position or not self.runs:
            self.runs.append((len(self.tokens), start))
        self.tokens.fromlist(tokens)
        self.next_position = start + len(tokens)

    def copy_head(self, source: Inode) -> None:
        """Become an equal of `source`, which may go on growing."""
        self.tokens = source.tokens[:]
        self.runs = source.runs[:]
        self.next_position = source.next_position
        self.frontier = source.frontier
        self.fidelity = source.fidelity
        self.recipe = source.recipe

    def cut(self, length: int, now_ns: int) -> None:
        """Forget tokens from `length` on."""
        self._touch(now_ns)
        self.longest = max(self.longest, len(self.tokens))
        # what is last in an edited file is computed anew (engine/page_table.py), whatever was saved of it
        good = length if self.fidelity == EXACT or length >= len(self.tokens) else length - 1
        del self.tokens[length:]
        while self.runs and self.runs[-1][0] >= length:
            self.runs.pop()
        self.next_position = self.runs[-1][1] + length - self.runs[-1][0] if self.runs else 0
        self.frontier = min(self.frontier, length)
        self.kept = min(self.kept, length)
        self.saved = cut_pages(self.saved, good)
        self.sampling.cut(length)
        if good <= 0:  # nothing is left of what was edited, or of pages of another model
            self.fidelity, self.recipe, self.stale = EXACT, None, False
        elif self.recipe is not None:
            self.recipe = recipe.cut(self.recipe, length)

    def _touch(self, now_ns: int) -> None:
        """The tokens are about to change. The search index tells what they were from what they are by the time, so no two of them
        (but of empty files) have the same."""
        self.modified_ns = max(now_ns, self.modified_ns + bool(self.tokens))

    def positions(self, offset: int, stop: int) -> list[int]:
        """Positions of tokens [offset, stop)."""
        result: list[int] = []
        end = len(self.tokens)
        for index, position in reversed(self.runs):
            low, high = max(index, offset), min(end, stop)
            if low < high:
                result[:0] = range(position + low - index, position + high - index)
            end = index
        return result

    def num_pages(self, page_size: int) -> int:
        """Pages that the computed part covers."""
        return -(-self.frontier // page_size)

    def check(self, max_positions: int) -> None:
        """Runs cover the tokens, positions ascend, nothing is past the frontier's or the model's end, and somebody holds it."""
        assert not self.is_dead, f"ino {self.ino} is held by nobody"
        assert 0 <= self.frontier <= len(self.tokens) and 0 <= self.kept <= len(self.tokens)
        assert bool(self.runs) == bool(self.tokens) and (not self.runs or self.runs[0][0] == 0)
        positions = self.positions(0, len(self.tokens))
        assert len(positions) == len(self.tokens)
        assert all(a < b for a, b in pairwise(positions))
        assert self.next_position == (positions[-1] + 1 if positions else 0) <= max_positions
        assert self.sampling.first is None or self.sampling.first <= len(self.tokens)
        assert all(start <= len(self.tokens) for start in self.sampling.grammars.values())
