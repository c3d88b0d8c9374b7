"""Keys at other positions (engine/rotation.py): turning stored keys by a difference of positions, with the model's own frequencies.

    stored key = R(p) k        R(p + d) k = R(d) R(p) k        so it needs d and neither k nor p

R(d) is read off the rotary module that the layer uses: its table of cosines and sines in float32, without the factor that some
schemes multiply them by. Whether that is all there is to the scheme is tried out on the module itself at start; schemes that depend
on the position in another way fail it, and `compact` and `rotate` are refused with the reason.
Source: Su et al., RoFormer, 2021; vllm/model_executor/layers/rotary_embedding/base.py (0.32).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from vllm.model_executor.layers.rotary_embedding.common import ApplyRotaryEmb

CLOSE = 1e-3  # of a key of size 1; and what its type rounds away
STEPS = ((0, 1), (3, 40), (40, 3), (1, 0))  # from, to; and to the last position and back


@dataclass(slots=True)
class Rotation:
    """One layer's. `table` [num_positions, rotary_dim]: cosines, then sines, of float32."""

    table: torch.Tensor
    rotary_dim: int
    neox: bool

    def turn(self, keys: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """`keys` [num_tokens, num_heads, head_size], each by its `delta` [num_tokens]."""
        cos, sin = self.table[delta.abs()].chunk(2, dim=-1)
        sin = sin * delta.sign()[:, None]
        rotated = ApplyRotaryEmb.forward_static(keys[..., : self.rotary_dim].float(), cos, sin, self.neox)
        return torch.cat((rotated.to(keys.dtype), keys[..., self.rotary_dim :]), dim=-1)


def find_rotations(config: Any, model: Any, layers: Iterable[Any]) -> dict[int, Rotation]:
    """The rotation of each attention layer, by the layer's id().

    Raises:
        NotImplementedError: a layer has none, or it is not the plain thing above; the message says which.
    """
    if config.model_config.uses_mrope:
        raise NotImplementedError("the model's positions have several dimensions")
    owners = {id(module.attn): module for module in model.modules() if hasattr(module, "attn")}
    made: dict[int, Rotation] = {}
    found: dict[int, Rotation] = {}
    for layer in layers:
        rotary = getattr(owners.get(id(layer)), "rotary_emb", None)
        if rotary is None:
            raise NotImplementedError(f"{layer.layer_name} has no rotary positions")
        if id(rotary) not in made:
            made[id(rotary)] = _rotation(rotary, config.model_config.max_model_len)
        found[id(layer)] = made[id(rotary)]
    return found


def _rotation(rotary: Any, num_positions: int) -> Rotation:
    name = type(rotary).__name__
    if not all(hasattr(rotary, a) for a in ("_compute_cos_sin_cache", "cos_sin_cache", "rotary_dim", "is_neox_style", "head_size")):
        raise NotImplementedError(f"{name} does not say its frequencies")
    with torch.inference_mode():
        table = rotary._compute_cos_sin_cache().to(rotary.cos_sin_cache.device, torch.float32)[:num_positions]
        scale = table[0, 0].item()
        if scale <= 0 or len(table) < 2:
            raise NotImplementedError(f"{name} has no usable table of positions")
        rotation = Rotation(table / scale, rotary.rotary_dim, rotary.is_neox_style)
        last = len(table) - 1
        rounding = 8 * torch.finfo(rotary.cos_sin_cache.dtype).eps + last * torch.finfo(torch.float32).eps
        for start, stop in (*STEPS, (0, last), (last, 0)):
            if max(start, stop) <= last and _error(rotary, rotation, start, stop) > (CLOSE + rounding) * max(1.0, scale):
                raise NotImplementedError(
                    f"{name} does more than turn keys: position {stop} is not {start} turned by {stop - start}"
                )
    return rotation


def _error(rotary: Any, rotation: Rotation, start: int, stop: int) -> float:
    """How far a key that the module put at `start`, turned to `stop`, is from one that it put there."""
    cache = rotary.cos_sin_cache
    key = torch.linspace(-1, 1, rotary.head_size, dtype=cache.dtype, device=cache.device)[None]
    at = [
        rotary.forward_native(torch.tensor([position], device=cache.device), key.clone(), key.clone())[1]
        for position in (start, stop)
    ]
    turned = rotation.turn(at[0].view(1, 1, -1), torch.tensor([stop - start], device=cache.device))
    return float((turned.view(-1) - at[1].view(-1)).abs().max())
