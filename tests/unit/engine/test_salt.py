"""Who finds whose pages: chains of hashes as vLLM makes them, in small."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from vllm_symphony.abi.types import Ino
from vllm_symphony.engine import salt

PAGE = 4
FILE = list(range(10))  # two whole pages and a half
OURS, THEIRS = "ann", "bob"
INO = Ino(7)


def hasher(request: Request) -> list[bytes]:
    """As `get_request_block_hasher` of vLLM: each hash of its tokens, the one before, and in the first the salt."""
    new: list[bytes] = []
    for start in range(len(request.block_hashes) * PAGE, len(request.tokens) - PAGE + 1, PAGE):
        before = new[-1] if new else request.block_hashes[-1] if request.block_hashes else b""
        said = request.cache_salt if start == 0 else ""
        new.append(sha256(before + repr((said, request.tokens[start : start + PAGE])).encode()).digest())
    return new


class Request:
    """As much of vLLM's as is used."""

    def __init__(self, tokens: list[int], cache_salt: str | None) -> None:
        self.tokens, self.cache_salt = list(tokens), cache_salt
        self.block_hashes: list[bytes] = []
        self._block_hasher: Any = hasher
        self.update_block_hashes()

    def update_block_hashes(self) -> None:
        self.block_hashes.extend(self._block_hasher(self))

    def grow(self, tokens: list[int]) -> None:
        for token in tokens:
            self.tokens.append(token)
            self.update_block_hashes()


def of_file(tokens: list[int], domain: str = OURS) -> list[bytes]:
    return Request(tokens, salt.of_domain(domain)).block_hashes


def request_over_file(own: list[int], whose: str, *, file: list[int] = FILE, secret: str = salt.SECRET) -> Request:
    request = Request(file + own, salt.asked(secret, INO, OURS, len(file), whose))
    assert salt.settle(request, PAGE) == (INO if secret == salt.SECRET else None)
    return request


def test_the_files_whole_pages_are_found_by_every_reader():
    for whose in (OURS, THEIRS):
        assert request_over_file([50] * 9, whose).block_hashes[:2] == of_file(FILE)


def test_what_one_reader_asks_is_found_by_nobody_else():
    own = [50] * 9
    mine, bobs, eves = (request_over_file(own, whose).block_hashes for whose in (OURS, THEIRS, "eve"))

    assert mine == of_file(FILE + own), "the owner's programs and requests share one chain"
    assert not set(bobs[2:]) & set(mine) and not set(bobs[2:]) & set(eves)
    assert request_over_file(own, THEIRS).block_hashes == bobs, "and he finds it again"


@pytest.mark.parametrize("num_first", range(9))
def test_a_chain_is_the_same_however_it_grew(num_first):
    own = list(range(60, 72))
    request = request_over_file(own[:num_first], THEIRS)

    request.grow(own[num_first:])

    assert request.block_hashes == request_over_file(own, THEIRS).block_hashes


def test_a_file_below_a_page_shares_nothing():
    small = FILE[:3]

    bobs = request_over_file([50] * 9, THEIRS, file=small).block_hashes

    assert bobs == of_file(small + [50] * 9, THEIRS)
    assert not set(bobs) & set(of_file(small + [50] * 9))


def test_a_file_of_whole_pages_is_shared_to_its_end():
    file = FILE[:8]

    bobs = request_over_file([50] * 4, THEIRS, file=file).block_hashes

    assert bobs[:2] == of_file(file) and len(bobs) == 3
    assert bobs[2] != of_file(file + [50] * 4)[2]


@pytest.mark.parametrize("said", [None, "", OURS, f"guessed {OURS}", salt.asked("guessed", INO, OURS, 10, OURS), "\n", "[]"])
def test_a_salt_that_a_client_chose_stays_and_finds_no_file(said):
    request = Request(FILE + [50] * 9, said)
    before = list(request.block_hashes)

    salt.settle(request, PAGE)

    assert (request.cache_salt, request.block_hashes) == (said, before)
    assert not set(before) & set(of_file(FILE + [50] * 9))


def test_without_a_prefix_cache_the_salt_is_taken_all_the_same():
    request = Request(FILE, None)
    request._block_hasher, request.block_hashes = None, []
    request.cache_salt = salt.asked(salt.SECRET, INO, OURS, len(FILE), THEIRS)

    salt.settle(request, PAGE)

    assert request.block_hashes == [] and request.cache_salt == salt.of_domain(OURS)
