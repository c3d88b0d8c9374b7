"""What the edge learns of its callers from an RPC's metadata."""

import asyncio

import pytest

from vllm_symphony.abi.types import ABI_MAJOR, ABI_MINOR
from vllm_symphony.edge.concern import peer_minor, same_abi
from vllm_symphony.errors import NotSupported


class Context:
    def __init__(self, *metadata):
        self._metadata = metadata

    def invocation_metadata(self):
        return self._metadata


@pytest.mark.parametrize(
    ("said", "minor"),
    [
        ((), ABI_MINOR),
        ((("symphony-abi", "1.0"),), 0),
        ((("authorization", "Bearer 1.7"), ("symphony-abi", "1.1")), 1),
        ((("symphony-abi", "1.99"),), 99),
        ((("symphony-abi", "1"),), ABI_MINOR),
        ((("symphony-abi", "1.x"),), ABI_MINOR),
        ((("symphony-abi", "1." + "9" * 5000),), 999_999_999),
    ],
    ids=range(7),
)
def test_the_minor_version_of_a_caller_is_what_it_says_or_ours(said, minor):
    assert peer_minor(Context(*said)) == minor


def test_another_major_version_is_refused():
    async def enter(version):
        async with same_abi("m", Context(("symphony-abi", version))):
            return True

    assert asyncio.run(enter(f"{ABI_MAJOR}.99"))
    with pytest.raises(NotSupported, match=r"speaks ABI 9\.0"):
        asyncio.run(enter("9.0"))
