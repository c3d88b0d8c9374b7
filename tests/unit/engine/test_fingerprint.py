"""The fingerprint of pages: what they depend on, and nothing else."""

from types import SimpleNamespace
from typing import Any

import torch

from vllm_symphony.engine.fingerprint import fingerprint

BIG = 28_311_552  # elements: float32 cannot count so far


class Settings:
    def __init__(self, **values: Any) -> None:
        self.values = values

    def to_dict(self) -> dict[str, Any]:
        return self.values


def config(block_size: int = 32, **settings: Any) -> Any:
    return SimpleNamespace(
        model_config=SimpleNamespace(dtype=torch.float32, hf_text_config=Settings(**settings)),
        cache_config=SimpleNamespace(block_size=block_size),
    )


def model(size: int = 100, last: float = 0.0) -> torch.nn.Module:
    module = torch.nn.Module()
    weight = torch.zeros(size, dtype=torch.int8)
    weight[-1] = last
    module.register_parameter("weight", torch.nn.Parameter(weight, requires_grad=False))
    return module


def test_it_is_the_same_for_the_same_and_another_for_other_weights_layouts_settings_and_page_sizes():
    same = fingerprint(config(rope_theta=1e4), model(), "layout")

    assert fingerprint(config(rope_theta=1e4), model(), "layout") == same
    others = {
        fingerprint(config(rope_theta=1e4), model(last=1), "layout"),
        fingerprint(config(rope_theta=1e4), model(size=101), "layout"),
        fingerprint(config(rope_theta=1e4), model(), "another"),
        fingerprint(config(rope_theta=5e5), model(), "layout"),
        fingerprint(config(16, rope_theta=1e4), model(), "layout"),
    }
    assert len(others) == 5 and same not in others


def test_where_the_model_lies_does_not_matter():
    assert fingerprint(config(_name_or_path="/a"), model(), "") == fingerprint(config(_name_or_path="/b"), model(), "")


def test_the_last_element_of_a_large_parameter_is_looked_at():
    assert fingerprint(config(), model(BIG), "") != fingerprint(config(), model(BIG, last=1), "")


class Packed(torch.nn.Module):
    """A linear layer as vLLM has it on a CPU: the weight is nowhere to be seen."""

    input_size = 6

    def __init__(self, columns: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
        self.quant_method = SimpleNamespace(apply=lambda _, x, bias: torch.nn.functional.linear(x, columns, bias))


def test_a_weight_that_was_packed_away_is_looked_at_through_its_layer():
    columns = torch.arange(24.0).reshape(4, 6)

    same = fingerprint(config(), torch.nn.Sequential(Packed(columns)), "")

    assert fingerprint(config(), torch.nn.Sequential(Packed(columns.clone())), "") == same
    assert fingerprint(config(), torch.nn.Sequential(Packed(columns.flip(0))), "") != same
