"""Blocks that remember (engine/sim/pool.py): vLLM's BlockPool as much as the page table uses of it, without a prefix cache.

A block's "KV" of a token is the pair (token, position) that was computed into its slot. The model reads its context from there and
never from the file's list of tokens, so a page that was not copied, or was freed too early, changes the logits and fails `check`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

Slot = tuple[int, int]  # token, position


class SimBlock:
    """One page of the device."""

    __slots__ = ("block_hash", "block_id", "ref_cnt", "slots")

    def __init__(self, block_id: int) -> None:
        self.block_id = block_id
        self.ref_cnt = 0
        self.block_hash: None = None
        self.slots: dict[int, Slot] = {}


class SimPool:
    """All blocks, and which are free. The one free longest is taken first."""

    def __init__(self, num_blocks: int) -> None:
        self.blocks = [SimBlock(i) for i in range(num_blocks)]
        self._free = deque(self.blocks)

    def get_new_blocks(self, num_blocks: int) -> list[SimBlock]:
        assert num_blocks <= len(self._free), f"{num_blocks} blocks wanted, {len(self._free)} free"
        taken = [self._free.popleft() for _ in range(num_blocks)]
        for block in taken:
            block.ref_cnt = 1
            block.slots = {}
        return taken

    def free_blocks(self, ordered_blocks: Iterable[SimBlock]) -> None:
        for block in ordered_blocks:
            block.ref_cnt -= 1
            assert block.ref_cnt >= 0, f"block {block.block_id} was freed twice"
            if not block.ref_cnt:
                self._free.append(block)

    def touch(self, blocks: Sequence[SimBlock]) -> None:
        for block in blocks:
            assert block.ref_cnt > 0, f"block {block.block_id} is free"
            block.ref_cnt += 1

    def get_num_free_blocks(self) -> int:
        return len(self._free)
