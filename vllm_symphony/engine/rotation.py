"""Keys at other positions (engine/rotation.py): turning stored keys by a difference of positions, with the model's own frequencies.

    stored key = R(p) k        R(p + d) k = R(d) R(p) k        so it needs d and neither k nor p

R(d) is read off the rotary module that the layer uses: its table of cosines and sines in float32, without the factor that some
schemes multiply them by. Whether that is all there is to it is tried out at start: on the module itself, and on the keys that
the layer around it would store (some put a norm behind the rotation). What depends on the position in another way fails, and
`compact` and `rotate` are refused with the reason.
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
            _demand_stored_so(owners[id(layer)], layer, made[id(rotary)], config.model_config)
        found[id(layer)] = made[id(rotary)]
    return found


class _Seen(Exception):
    """The key that a layer was about to store."""

    def __init__(self, key: torch.Tensor) -> None:
        self.key = key


def _demand_stored_so(owner: Any, layer: Any, rotation: Rotation, model_config: Any) -> None:
    """Raises NotImplementedError when a key that the layer stores at a position is not one of another position, turned."""
    weight = next(owner.parameters())
    hidden = torch.linspace(-1, 1, model_config.get_hidden_size(), device=weight.device, dtype=model_config.dtype)[None]
    start, stop = 3, min(40, len(rotation.table) - 1)
    at, other = (_stored(owner, layer, hidden, position) for position in (start, stop))
    turned = rotation.turn(at, torch.tensor([stop - start], device=at.device))
    rounding = 16 * torch.finfo(model_config.dtype).eps
    if float((turned - other).abs().max()) > (CLOSE + rounding) * max(1.0, float(at.abs().max())):
        raise NotImplementedError(f"{type(owner).__name__} does more to its keys than to turn them")


def _stored(owner: Any, layer: Any, hidden: torch.Tensor, position: int) -> torch.Tensor:
    """The key of one token at a position.   # [1, num_heads, head_size]"""

    def see(query: Any, key: torch.Tensor, *_: Any, **__: Any) -> None:
        raise _Seen(key)

    layer.forward = see
    try:
        with torch.inference_mode():
            owner(torch.tensor([position], device=hidden.device), hidden)
    except _Seen as seen:
        return seen.key.view(1, layer.num_kv_heads, layer.head_size)
    except Exception as error:  # the model's own code, called in a way that it may not know
        raise NotImplementedError(f"the keys of {type(owner).__name__} cannot be looked at: {error}") from error
    finally:
        del layer.forward
    raise NotImplementedError(f"{type(owner).__name__} stores no keys")


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
