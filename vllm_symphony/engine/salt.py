"""Who finds whose pages in vLLM's prefix cache (engine/salt.py).

    domain alice     salt(alice)                  her files, and requests over them: one chain of hashes
    bob's request over alice's file of 40 tokens, pages of 16:
                     page 0, 1    alice's chain   her pages are found, nothing is computed
                     page 2, ...  bob's chain     what he asks is found by him alone, and tells nobody else by its speed

A page's hash is of its tokens and of the hash before it; the first takes in the salt. So a chain is cut by putting another hash in
the place of the one before. Plain requests choose their own salt (`cache_salt` of vLLM's API): the domains' hold a secret of this
process, so that nobody names one by guessing. What the door asks for travels as a salt too, with the same secret (`asked`).
Source: vllm/v1/core/kv_cache_utils.py `get_request_block_hasher` (0.32).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from vllm_symphony.abi.types import Ino

SECRET = secrets.token_hex(16)
_generation = 0  # of the weights: pages that others computed are not found


def of_domain(domain: str) -> str | None:
    """The salt of a domain's files; None: that of plain requests."""
    if not (domain or _generation):
        return None
    return f"{SECRET} {domain}" if not _generation else f"{SECRET} {_generation} {domain}"


def begin_generation() -> None:
    """The model has other weights from now on."""
    global _generation
    _generation += 1


def asked(secret: str, ino: Ino, domain: str, num_tokens: int, own: str) -> str:
    """The salt of a request whose first tokens are those of a file (`ino`) in `domain`; the rest is found in the domain `own`.

    `secret`: the engine's, as the web process was told it.
    """
    return f"{secret}\n{json.dumps([ino, domain, num_tokens, own])}"


def settle(request: Any, page_size: int) -> Ino | None:
    """Give a request that the door sent the hashes that it should have; others stay as they are. Gives the file that it names."""
    salt = request.cache_salt
    if salt is None or not salt.startswith(f"{SECRET}\n"):
        return None
    ino, domain, num_tokens, own = json.loads(salt[len(SECRET) + 1 :])
    num_shared = num_tokens // page_size
    request.cache_salt = of_domain(domain if num_shared else own)
    if request._block_hasher is None:
        return None
    request.block_hashes.clear()
    request.update_block_hashes()
    if num_shared and own != domain:
        del request.block_hashes[num_shared:]
        request._block_hasher = _cut(request._block_hasher, num_shared, of_domain(own))
        request.update_block_hashes()
    return Ino(ino)


def _cut(hasher: Callable[[Any], list[Any]], num_shared: int, salt: str | None) -> Callable[[Any], list[Any]]:
    """A hasher whose chain goes on in another domain behind the first `num_shared` hashes, which are there."""

    def hashes(request: Any) -> list[Any]:
        have: list[Any] = request.block_hashes
        if len(have) > num_shared:
            return hasher(request)
        true = have[-1]
        have[-1] = blake2b(true + (salt or "").encode(), digest_size=32).digest()
        try:
            return hasher(request)
        finally:
            have[-1] = true

    return hashes
