"""Where a token's keys and values lie in the cache, found out by writing some (engine/layout.py).

    scratch block <--do_kv_cache_update(coded K, V)-- the backend's own write path
    where [slot, element] = the place in the block of each element; elements are K[head, dim], then V[head, dim]

No packing is assumed: backends transpose, interleave and pad as they like (the CPU's keeps keys as [dim, slot]). What is found must
be one place for each element and no place twice, or surgery is refused with the reason. A copy of slots is then one gather and one
scatter for each layer; layers that share a cache are counted once. Between the two, keys may be turned to other positions
(rotation.py). Each worker does this for its own layers and heads, asked by RPC between steps.
Source: vllm/v1/attention/backend.py `do_kv_cache_update` (0.32).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from vllm.config import get_layers_from_vllm_config
from vllm.model_executor.layers.attention import Attention

from vllm_symphony.engine.rotation import Rotation, find_rotations

BASE = 128  # of the code's digits: each is an integer that every float type of a cache holds exactly
CHUNK_ELEMENTS = 1 << 24  # of a gather


class UnknownLayout(Exception):
    """The write path does not say where it writes."""


@dataclass(slots=True)
class LayerCache:
    """One layer's cache: `flat` is its memory, `stride` the way from block to block, `where` [slots_per_block, elements] the place
    in a block. `rotation` turns its keys, if that is known."""

    flat: torch.Tensor
    stride: int
    where: torch.Tensor
    num_heads: int
    head_size: int
    rotation: Rotation | None = None

    def index(self, slots: torch.Tensor) -> torch.Tensor:
        """Places of all elements of these slots.   # [num_slots, elements]"""
        size = len(self.where)
        return (slots // size * self.stride)[:, None] + self.where[slots % size]

    def copy(self, src: torch.Tensor, dst: torch.Tensor, delta: torch.Tensor | None) -> None:
        """Copy slots to slots; keys move by `delta` positions."""
        content = self.flat[self.index(src)]
        if delta is not None:
            assert self.rotation is not None
            num_keys = self.num_heads * self.head_size
            keys = content[:, :num_keys].view(-1, self.num_heads, self.head_size)
            content[:, :num_keys] = self.rotation.turn(keys, delta).view(-1, num_keys)
        self.flat[self.index(dst)] = content


@dataclass(slots=True)
class Layout:
    """All layers of one worker. `refusal`: why slots cannot be copied; `no_rotation`: why keys cannot be turned. Empty: they
    can."""

    layers: list[LayerCache] = field(default_factory=list)
    refusal: str = ""
    no_rotation: str = ""
    digest: str = ""  # of all that pages depend on here

    def copy_slots(self, src: np.ndarray, dst: np.ndarray, delta: np.ndarray | None) -> None:
        """Copy slots (block x page size + place) to slots that are none of the sources, in every layer."""
        assert not self.refusal and len(src) == len(dst) and (delta is None or not self.no_rotation)
        device = self.layers[0].flat.device
        take, put = torch.from_numpy(src).to(device), torch.from_numpy(dst).to(device)
        turn = torch.from_numpy(delta).to(device) if delta is not None and delta.any() else None
        with torch.inference_mode():
            for layer in self.layers:
                step = max(1, CHUNK_ELEMENTS // layer.where.shape[1])
                for i in range(0, len(take), step):
                    part = slice(i, i + step)
                    layer.copy(take[part], put[part], turn[part] if turn is not None else None)


def probe(config: Any, model: Any, num_slots: int) -> Layout:
    """Find out the layout of a worker's caches, which have `num_slots` slots each."""
    layout = Layout()
    attention: dict[str, Any] = get_layers_from_vllm_config(config, Attention)
    found: dict[Any, torch.Tensor] = {}
    seen: dict[int, LayerCache] = {}
    digest = blake2b(digest_size=16)
    try:
        rotations = find_rotations(config, model, attention.values())
    except NotImplementedError as error:
        rotations, layout.no_rotation = {}, str(error)
    try:
        for layer in attention.values():
            cache = layer.kv_cache
            if cache.data_ptr() in seen:
                continue
            key = _shape(layer, cache)
            if key not in found:
                found[key] = find_places(layer, cache, num_slots)
            digest.update(repr(key).encode() + found[key].cpu().numpy().tobytes())
            extent = (len(cache) - 1) * cache.stride(0) + int(found[key].max()) + 1
            flat = torch.as_strided(cache, (extent,), (1,), cache.storage_offset())
            seen[cache.data_ptr()] = LayerCache(
                flat, cache.stride(0), found[key], layer.num_kv_heads, layer.head_size, rotations.get(id(layer))
            )
    except UnknownLayout as error:
        layout.refusal = str(error)
    layout.layers = list(seen.values())
    if not layout.layers:
        layout.refusal = layout.refusal or "the model has no attention layers with keys and values of their own"
    layout.no_rotation = layout.refusal or layout.no_rotation
    layout.digest = digest.hexdigest()
    return layout


def _shape(layer: Any, cache: torch.Tensor) -> tuple[Any, ...]:
    """What the place of an element may depend on."""
    return type(layer.impl).__name__, layer.num_kv_heads, layer.head_size, cache.shape[1:], cache.stride(), str(cache.dtype)


def find_places(layer: Any, cache: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Write a block of slots with codes, and read off where each went.   # [slots_per_block, elements]

    Raises:
        UnknownLayout: it did not store each element as it is, in a place of its own.
    """
    if layer.kv_cache_dtype.startswith(("fp8", "int8", "nvfp4", "turboquant")) or not cache.dtype.is_floating_point:
        raise UnknownLayout(f"the cache holds {cache.dtype}, not what the model computes: keys would need their scales")
    if num_slots % len(cache):
        raise UnknownLayout(f"{len(cache)} blocks do not divide {num_slots} slots")
    size, heads, dim = num_slots // len(cache), layer.num_kv_heads, layer.head_size
    num_elements = 2 * heads * dim
    codes = torch.arange(size * num_elements).view(size, num_elements)
    slots = torch.arange(size, device=cache.device)
    span = 1 + sum((n - 1) * s for n, s in zip(cache.shape[1:], cache.stride()[1:], strict=True))
    found = torch.zeros(span, dtype=torch.long)
    written = torch.zeros(span, dtype=torch.bool)
    for digit in _digits(codes):
        scratch = torch.zeros(span, dtype=cache.dtype, device=cache.device)
        block = torch.as_strided(scratch, (1, *cache.shape[1:]), (span, *cache.stride()[1:]))
        values = (digit + 1).to(device=cache.device, dtype=cache.dtype).view(size, 2, heads, dim)
        layer.impl.do_kv_cache_update(layer, values[:, 0].contiguous(), values[:, 1].contiguous(), block, slots)
        read = scratch.float().cpu().long()
        written |= read > 0
        found = found * BASE + (read - 1).clamp(min=0)
    places = written.nonzero().flatten()
    where = torch.full((size * num_elements,), -1)
    if len(places) == len(where) and int(found[places].max()) < len(where):
        where[found[places]] = places
    if int(where.min()) < 0:
        raise UnknownLayout(f"{type(layer.impl).__name__} does not write each element to a place of its own")
    return where.view(size, num_elements).to(cache.device)


def _digits(codes: torch.Tensor) -> list[torch.Tensor]:
    """The codes in base `BASE`, highest digit first."""
    digits = [codes % BASE]
    while int((codes := codes // BASE).max()):
        digits.append(codes % BASE)
    return digits[::-1]
