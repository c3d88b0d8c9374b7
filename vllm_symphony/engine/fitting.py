"""What both hosts put over vLLM's engine core (engine/fitting.py): the device of files, the text service, what the model can do.

    core.scheduler <--attach-- FileDevice <--mail-- host        TextService: tokenizer on a thread of its own

The hosts differ in how their loop waits and is woken; everything else is here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_symphony.abi.types import ModelInfo
from vllm_symphony.engine import compat
from vllm_symphony.engine.device import FileDevice
from vllm_symphony.engine.fingerprint import together
from vllm_symphony.engine.page_io import EngineMover, NoMover
from vllm_symphony.engine.text import TextService
from vllm_symphony.engine.tier import TierLimits
from vllm_symphony.kernel.effect import Completion

MAX_TOP_K = 1024


@dataclass(frozen=True, slots=True)
class Fitting:
    """The parts that a host owns. `tokenizer` is None for a model without one."""

    device: FileDevice
    text: TextService
    model: ModelInfo
    tokenizer: Any


def fit(
    core: Any,
    config: Any,
    *,
    deliver: Callable[[Sequence[Completion]], None],
    wake: Callable[[], None],
    wait: Callable[[float], bool],
    tool_parser: str | None = None,
    tiers: TierLimits = TierLimits(),  # noqa: B008  frozen
) -> Fitting:
    """Attach a device to the core's scheduler. `deliver` takes completions on the engine thread, `wake` is called when mail came,
    `wait` waits that many seconds for more and says whether some came."""
    from vllm.tokenizers import cached_tokenizer_from_config

    model_config = config.model_config
    tokenizer = None if model_config.skip_tokenizer_init else cached_tokenizer_from_config(model_config=model_config)
    end_tokens = _end_tokens_of(model_config, tokenizer)
    fingerprint = together(core.collective_rpc("symphony_fingerprint"))
    keeps_pages = core.scheduler.files_keep_pages
    num_pages = core.scheduler.kv_cache_config.num_blocks
    mover = EngineMover(core.collective_rpc, tiers, num_pages, fingerprint, wake) if keeps_pages else NoMover()
    device = FileDevice(
        core.scheduler,
        hasher=core.request_block_hasher,
        rpc=core.collective_rpc,
        tokenizer=tokenizer,
        end_tokens=end_tokens,
        vocab_size=model_config.get_vocab_size(),
        deliver=deliver,
        wake=wake,
        mover=mover,
        tiers=mover.limits,
    )
    core.scheduler.attach(device, wait)
    model = _describe(config, device, end_tokens, fingerprint)
    return Fitting(device, TextService(tokenizer, model.vocab_size, deliver, tool_parser), model, tokenizer)


def _describe(config: Any, device: FileDevice, end_tokens: Sequence[int], fingerprint: str) -> ModelInfo:
    """What `model_info` says."""
    model = config.model_config
    scheduler, table = device.scheduler, device.table
    vocab_size = model.get_vocab_size()
    capabilities = ["forward", "generate", "sample", "logits", "until", "grammar", "fork", "truncate", "positions"]
    unsupported = {}
    if refusal := compat.jobs_refusal(config):
        unsupported = dict.fromkeys(capabilities[:6], refusal)
        del capabilities[:6]
    if refusal := scheduler.pages_refusal:
        capabilities.append("recompute")
        unsupported["pages"] = f"{refusal}: files are computed again through the prefix cache"
    surgery = device.surgery
    for name, refusal in (("extract", surgery.refusal), ("compact", surgery.no_rotation), ("rotate", surgery.no_rotation)):
        if refusal:
            unsupported[name] = refusal
        else:
            capabilities.append(name)
    caches = scheduler.kv_cache_config
    page_bytes = sum(t.size for t in caches.kv_cache_tensors) // caches.num_blocks * config.parallel_config.world_size
    return ModelInfo(
        name=str(model.served_model_name or model.model),
        vocab_size=vocab_size,
        max_positions=model.max_model_len - 1,  # vLLM wants room for the token that it samples
        page_size=table.page_size,
        num_pages=table.num_pages,
        max_top_k=min(MAX_TOP_K, vocab_size),
        eos_tokens=tuple(end_tokens),
        dtype=str(model.dtype).removeprefix("torch."),
        capabilities=tuple(capabilities),
        unsupported=unsupported,
        page_bytes=page_bytes,
        fingerprint=fingerprint,
    )


def _end_tokens_of(model_config: Any, tokenizer: Any) -> list[int]:
    """The model's own end tokens: the tokenizer's and the generation config's."""
    ids: list[int] = []
    eos = getattr(tokenizer, "eos_token_id", None) if tokenizer is not None else None
    more = model_config.try_get_generation_config().get("eos_token_id")
    for value in (eos, *(more if isinstance(more, list) else [more])):
        if isinstance(value, int) and value not in ids:
            ids.append(value)
    return ids
