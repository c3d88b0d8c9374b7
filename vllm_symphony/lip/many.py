"""Several forwards in one frame (lip/many.py): beams, verification, drafts side by side. They share the engine's step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, overload

from vllm_symphony.abi.calls import Forward, ForwardMany, ForwardManyResult
from vllm_symphony.errors import SymphonyError, from_reason
from vllm_symphony.lip import transport
from vllm_symphony.lip.distribution import Distribution
from vllm_symphony.lip.file import File, Keep, Tokens, packed


@overload
async def forward_many(
    items: Iterable[tuple[File, Tokens]],
    *,
    top_k: int = 20,
    temperature: float = 1.0,
    entropy: bool = False,
    keep: Keep = "last",
    timeout_s: float | None = None,
    return_errors: Literal[False] = False,
) -> list[Distribution]: ...
@overload
async def forward_many(
    items: Iterable[tuple[File, Tokens]],
    *,
    top_k: int = 20,
    temperature: float = 1.0,
    entropy: bool = False,
    keep: Keep = "last",
    timeout_s: float | None = None,
    return_errors: Literal[True],
) -> list[Distribution | SymphonyError]: ...
async def forward_many(
    items: Iterable[tuple[File, Tokens]],
    *,
    top_k: int = 20,
    temperature: float = 1.0,
    entropy: bool = False,
    keep: Keep = "last",
    timeout_s: float | None = None,
    return_errors: bool = False,
) -> list[Distribution] | list[Distribution | SymphonyError]:
    """Forward on several different files at once; the distribution after each one's last token, in order.

    Each forward is atomic by itself. The first error is raised after all ended (the others' tokens are then in their files), or
    with `return_errors` stands in the list.
    """
    pairs = list(items)
    forwards = [
        Forward(
            file.fd, await packed(tokens), top_k=top_k, keep=keep, temperature=temperature, entropy=entropy, timeout_s=timeout_s
        )
        for file, tokens in pairs
    ]
    answer: ForwardManyResult = await transport.call("forward_many", ForwardMany(tuple(forwards)))
    results: list[Distribution | SymphonyError] = []
    for (file, _), result, error in zip(pairs, answer.results, answer.errors, strict=True):
        if result is not None:
            file.note_length(result.length)
            results.append(Distribution(file, result.distributions[0]))
        else:
            assert error is not None, "the kernel answers each forward"
            results.append(from_reason(error.reason, error.message, error.values, error.retry_after_s))
    if return_errors:
        return results
    for one in results:
        if isinstance(one, SymphonyError):
            raise one
    return [one for one in results if isinstance(one, Distribution)]
