"""Keys at other positions: what the probe finds of each rotary scheme, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import engine_env

engine_env()

from vllm.config import VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.model_executor.layers.rotary_embedding import get_rope  # noqa: E402

from vllm_symphony.engine.rotation import find_rotations  # noqa: E402

HEADS, DIM, HIDDEN, LENGTH = 2, 64, 48, 512
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
}  # fmt: skip


class Stored(nn.Module):
    """In place of vLLM's Attention: what it is handed is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.num_kv_heads, self.head_size, self.layer_name = HEADS, DIM, "model.layers.0.self_attn.attn"

    def forward(self, query: Any, key: Any, value: Any) -> Any:
        return value


class Layer(nn.Module):
    def __init__(self, rotary: Any, scale_after: bool = False) -> None:
        super().__init__()
        self.proj = nn.Linear(HIDDEN, HEADS * DIM)
        self.scale = torch.linspace(0.5, 2, HEADS * DIM) if scale_after else torch.ones(HEADS * DIM)
        self.rotary_emb = rotary
        self.attn = Stored()

    def forward(self, positions: torch.Tensor, hidden: torch.Tensor) -> Any:
        key = self.proj(hidden)
        if self.rotary_emb is not None:
            key = self.rotary_emb.forward_native(positions, key, key)[1]
        return self.attn(key, key * self.scale, key)


class Unlike(Layer):
    def forward(self, hidden: torch.Tensor) -> Any:  # type: ignore[override]
        return super().forward(torch.zeros(1), hidden)


CONFIG = SimpleNamespace(
    model_config=SimpleNamespace(uses_mrope=False, max_model_len=LENGTH, dtype=torch.float32, get_hidden_size=lambda: HIDDEN)
)


def rope(neox: bool = True, **parameters: Any) -> Any:
    with set_current_vllm_config(VllmConfig()):
        return get_rope(
            DIM, LENGTH, is_neox_style=neox, rope_parameters={"rope_theta": 10000.0, "rope_type": "default", **parameters},
            dtype=torch.float32,
        )  # fmt: skip


def found(layer: nn.Module) -> Any:
    (rotation,) = find_rotations(CONFIG, layer, [layer.attn]).values()
    return rotation


@pytest.mark.parametrize(
    ("neox", "parameters"),
    [(True, {}), (False, {}), (True, {"partial_rotary_factor": 0.5}), (True, YARN), (True, LLAMA3)],
    ids=["neox", "gptj", "partial", "yarn", "llama3"],
)
def test_turned_keys_are_those_of_the_other_positions(neox, parameters):
    torch.manual_seed(1)
    rotary = rope(neox, **parameters)
    rotation = found(Layer(rotary))
    keys = torch.randn(40, HEADS * DIM)
    old, new = torch.randint(0, LENGTH, (2, 40))

    placed = [rotary.forward_native(at, keys.clone(), keys.clone())[1].view(40, HEADS, DIM) for at in (old, new)]

    assert torch.allclose(rotation.turn(placed[0], new - old), placed[1], atol=2e-4)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: Layer(None), "model.layers.0.self_attn.attn has no rotary positions"),
        (lambda: Layer(rope(), scale_after=True), "Layer does more to its keys than to turn them"),
        (lambda: Unlike(rope()), "the keys of Unlike cannot be looked at"),
        (lambda: Layer(nn.Identity()), "Identity does not say its frequencies"),
    ],
    ids=["none", "scaled after", "called otherwise", "unknown"],
)
def test_what_is_no_plain_rotation_is_refused_with_the_reason(layer, reason):
    with pytest.raises(NotImplementedError, match=reason):
        found(layer())


def test_positions_of_several_dimensions_are_refused():
    config = SimpleNamespace(model_config=SimpleNamespace(uses_mrope=True))

    with pytest.raises(NotImplementedError, match="several dimensions"):
        find_rotations(config, Layer(None), [])
