"""What pages depend on, as one name (engine/fingerprint.py).

    fingerprint = hash( vLLM's version, model and rotary settings, each parameter's name, shape, type and a sample of it,
                        the cache's layout as it was probed )

Pages that were written under one fingerprint are good under no other. A sample of each parameter tells any two trainings apart
without reading gigabytes; adapters are parameters too. Each worker names its share; the server's is the hash of all of them.
On a CPU vLLM packs a linear layer's weight away where no parameter shows it; then the layer is asked: what it makes of a vector
with a single one is a column of the weight, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import torch

from vllm_symphony.engine.compat import VLLM_VERSION

SAMPLES = 64  # elements of each parameter, evenly spaced
COLUMNS = 8  # of a packed weight


def fingerprint(config: Any, model: Any, layout: str) -> str:
    """Of one worker's share, in hex."""
    digest = blake2b(digest_size=16)
    model_config = config.model_config
    digest.update(repr((VLLM_VERSION, str(model_config.dtype), config.cache_config.block_size, layout)).encode())
    digest.update(repr(sorted(_settings(model_config.hf_text_config).items())).encode())
    with torch.inference_mode():
        for name, parameter in sorted(model.named_parameters()):
            digest.update(repr((name, tuple(parameter.shape), str(parameter.dtype))).encode())
            digest.update(_sample(parameter.detach()))
        for name, columns in _packed(model):
            digest.update(name.encode() + _sample(columns))
    return digest.hexdigest()


def _sample(values: torch.Tensor) -> bytes:
    """Some elements of it, as they are."""
    flat = values.reshape(-1)
    index = _spread(flat.numel(), SAMPLES).to(flat.device)
    return flat[index].contiguous().view(torch.uint8).cpu().numpy().tobytes()


def _spread(size: int, most: int) -> torch.Tensor:
    """Up to `most` indexes, the first and the last among them; in integers: no rounding up."""
    count = min(most, size)
    return torch.arange(count) * (size - 1) // max(1, count - 1)


def _packed(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Columns of the weights of linear layers that have none to look at."""
    for name, layer in sorted(model.named_modules()):
        weight = getattr(layer, "weight", None)
        if not (hasattr(layer, "quant_method") and hasattr(layer, "input_size") and weight is not None and not weight.numel()):
            continue
        size = getattr(layer, "input_size_per_partition", layer.input_size)
        chosen = _spread(size, COLUMNS)
        ones = torch.zeros(len(chosen), size, dtype=weight.dtype, device=weight.device)
        ones[torch.arange(len(chosen)), chosen] = 1
        yield name, layer.quant_method.apply(layer, ones, None)


def together(parts: Iterable[str]) -> str:
    """The server's, of its workers' in their order."""
    return blake2b("/".join(parts).encode(), digest_size=16).hexdigest()


def _settings(config: Any) -> dict[str, str]:
    """The model's own settings; not where it lies or who saved it."""
    ignored = {"_name_or_path", "transformers_version", "architectures"}
    return {key: repr(value) for key, value in config.to_dict().items() if key not in ignored}
