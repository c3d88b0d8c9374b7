"""The layout that the probe finds behind write paths of several kinds, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import engine_env

engine_env()

from vllm_symphony.engine.layout import LayerCache, UnknownLayout, find_places  # noqa: E402

HEADS, DIM, SIZE, BLOCKS = 3, 16, 32, 5


class PlainSlots:
    """[block, slot, K or V, head, dim]."""

    shape = (BLOCKS, SIZE, 2, HEADS, DIM)

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        for i, slot in enumerate(slots.tolist()):
            cache[slot // SIZE, slot % SIZE, 0], cache[slot // SIZE, slot % SIZE, 1] = key[i], value[i]


class KeysTransposed:
    """As the CPU does: in a block keys are [head, dim, slot], values [head, slot, dim]."""

    shape = (BLOCKS, 2, HEADS, DIM * SIZE)

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        for i, slot in enumerate(slots.tolist()):
            keys, values = cache[slot // SIZE]
            keys.view(HEADS, DIM, SIZE)[:, :, slot % SIZE] = key[i]
            values.view(HEADS, SIZE, DIM)[:, slot % SIZE] = value[i]


class Padded(PlainSlots):
    """Rows with room behind them that nobody writes."""

    shape = (BLOCKS, SIZE, 2, HEADS, DIM + 8)

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        super().do_kv_cache_update(layer, key, value, cache[..., :DIM], slots)


class KernelBlocks(PlainSlots):
    """The backend's blocks are half as large as the scheduler's."""

    shape = (2 * BLOCKS, SIZE // 2, 2, HEADS, DIM)

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        for i, slot in enumerate(slots.tolist()):
            at = cache[slot // (SIZE // 2), slot % (SIZE // 2)]
            at[0], at[1] = key[i], value[i]


class Rounded(PlainSlots):
    """It does not store what it is given."""

    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        super().do_kv_cache_update(layer, (key / 8).floor(), value, cache, slots)


class NoValues(PlainSlots):
    def do_kv_cache_update(self, layer: Any, key: Any, value: Any, cache: Any, slots: Any) -> None:
        super().do_kv_cache_update(layer, key, key * 0, cache, slots)


def layer_of(impl: Any, dtype: str = "auto") -> Any:
    return SimpleNamespace(impl=impl, num_kv_heads=HEADS, head_size=DIM, kv_cache_dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
@pytest.mark.parametrize("kind", [PlainSlots, KeysTransposed, Padded, KernelBlocks])
def test_copied_slots_are_what_the_backend_would_have_written(kind, strided, dtype):
    impl, numel = kind(), BLOCKS * SIZE
    memory = torch.zeros(2, *kind.shape, dtype=dtype).transpose(0, 1) if strided else torch.zeros(1, *kind.shape, dtype=dtype)
    cache = memory[:, 1] if strided else memory[0]
    layer = layer_of(impl)
    keys, values = torch.randn(2, numel, HEADS, DIM).to(dtype)
    impl.do_kv_cache_update(layer, keys, values, cache, torch.arange(numel))
    src, dst = torch.tensor([3, 31, 32, 70, 5]), torch.tensor([100, 129, 96, 128, 159])

    where = find_places(layer, cache, numel)
    flat = torch.as_strided(cache, ((len(cache) - 1) * cache.stride(0) + int(where.max()) + 1,), (1,), cache.storage_offset())
    LayerCache(flat, cache.stride(0), where, HEADS, DIM).copy(src, dst, None)

    keys[dst], values[dst] = keys[src], values[src]
    want = torch.zeros_like(cache)
    impl.do_kv_cache_update(layer, keys, values, want, torch.arange(numel))
    assert torch.equal(cache, want)


@pytest.mark.parametrize(
    ("impl", "dtype", "reason"),
    [
        (Rounded(), "auto", "Rounded does not write each element to a place of its own"),
        (NoValues(), "auto", "NoValues does not write each element"),
        (PlainSlots(), "fp8_e4m3", "keys would need their scales"),
    ],
)
def test_a_write_path_that_is_not_plain_is_refused(impl, dtype, reason):
    with pytest.raises(UnknownLayout, match=reason):
        find_places(layer_of(impl, dtype), torch.zeros(PlainSlots.shape), BLOCKS * SIZE)
