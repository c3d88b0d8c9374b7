"""What pages depend on, as one name (engine/fingerprint.py).

    fingerprint = hash( vLLM's version, model and rotary settings, each parameter's name, shape, type and a sample of it,
                        the cache's layout as it was probed )

Pages that were written under one fingerprint are good under no other. A sample of each parameter tells any two trainings apart
without reading gigabytes; adapters are parameters too. Each worker names its share; the server's is the hash of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import torch

from vllm_symphony.engine.compat import VLLM_VERSION

SAMPLES = 64  # elements of each parameter, evenly spaced


def fingerprint(config: Any, model: Any, layout: str) -> str:
    """Of one worker's share, in hex."""
    digest = blake2b(digest_size=16)
    model_config = config.model_config
    digest.update(repr((VLLM_VERSION, str(model_config.dtype), config.cache_config.block_size, layout)).encode())
    digest.update(repr(sorted(_settings(model_config.hf_text_config).items())).encode())
    with torch.inference_mode():
        for name, parameter in sorted(model.named_parameters()):
            digest.update(repr((name, tuple(parameter.shape), str(parameter.dtype))).encode())
            flat = parameter.detach().reshape(-1)
            count = min(SAMPLES, flat.numel())
            index = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(1, count - 1)  # in integers: no rounding up
            digest.update(flat[index].contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def together(parts: Iterable[str]) -> str:
    """The server's, of its workers' in their order."""
    return blake2b("/".join(parts).encode(), digest_size=16).hexdigest()


def _settings(config: Any) -> dict[str, str]:
    """The model's own settings; not where it lies or who saved it."""
    ignored = {"_name_or_path", "transformers_version", "architectures"}
    return {key: repr(value) for key, value in config.to_dict().items() if key not in ignored}
