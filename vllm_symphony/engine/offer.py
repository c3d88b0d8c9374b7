"""Pages of files for plain requests (engine/offer.py): what vLLM's prefix cache finds by hash is what was put there.

    a job ends         its request has put the file's whole pages there                     (vLLM itself)
    pages come back    from host memory or disk, into blocks that no hash names:  `offer` puts them there when a request asks

The file keeps its references; a request that finds a page takes one of its own.
Source: vllm/v1/core/block_pool.py `BlockPool.cache_full_blocks` (0.32).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_symphony.abi.types import Ino
from vllm_symphony.engine.job import FORWARD_ONCE, make_request

if TYPE_CHECKING:
    from vllm_symphony.engine.device import FileDevice


def offer(device: FileDevice, ino: Ino) -> None:
    """Let the whole pages of the file be found, as far as they are on the device. Nothing to do while a request has them."""
    table = device.table
    f = table.files.get(ino)
    if f is None or f.private or f.job is not None or f.resting is not None or device.hasher is None:
        return
    full = f.frontier // table.page_size
    if f.num_cached >= full:
        return
    request = make_request(f"{ino}-offered", f, FORWARD_ONCE, device.hasher, lookup=False)
    pool: Any = table.pool  # vLLM's own, where there is a hasher
    pool.cache_full_blocks(request, f.blocks, f.num_cached, full, table.page_size, 0)  # files have pages in one group only
    f.num_cached, f.hashes = full, list(request.block_hashes[:full])
