import math
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from vllm_symphony.abi.calls import Forward, ForwardResult, Generate, GenerateResult, LogitsResult, Open, Sample, Spawn
from vllm_symphony.abi.codec import call_frame, read_args, read_call
from vllm_symphony.abi.table import CALLS
from vllm_symphony.abi.types import Distribution, Predicate, Sampler, pack_floats, pack_tokens
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.runtime.wasm.as_json import FLOATS, TOKENS, to_call, to_json

BASE64 = {"code", "data", "logits"}


def bytes_fields(cls: type, seen: set[type]) -> set[str]:
    """Names of the fields with bytes in `cls` and in what it holds."""
    if cls in seen:
        return set()
    seen.add(cls)
    found: set[str] = set()
    for name, hint in get_type_hints(cls).items():
        for part in (hint, *get_args(hint)):
            if part is bytes:
                found.add(name)
            elif isinstance(part, type) and is_dataclass(part):
                found |= bytes_fields(part, seen)
    return found


def test_every_field_with_bytes_has_its_form():
    found: set[str] = set()
    for spec in CALLS.values():
        for cls in (spec.args, spec.result, spec.part):
            found |= bytes_fields(cls, set()) if cls is not None else set()

    assert found == TOKENS | FLOATS | BASE64


def as_the_kernel_reads(op: str, args: dict[str, Any]) -> Any:
    frame = call_frame(1, op, to_call(CALLS[op].args, args))
    return read_args(read_call(frame[4:]))


def test_a_call_becomes_what_the_kernel_reads():
    assert as_the_kernel_reads("forward", {"fd": 3, "tokens": [1, 2], "indices": [0]}) == Forward(
        3, pack_tokens([1, 2]), indices=pack_tokens([0])
    )
    assert as_the_kernel_reads("open", {"tokens": None, "path": "/a"}) == Open("/a")
    assert as_the_kernel_reads("spawn", {"code": "AGFzbQ=="}) == Spawn(code=b"\0asm")


def test_nested_values_are_packed_too():
    until = {"op": "or", "parts": [{"op": "top1_in", "tokens": [7]}, {"op": "after", "value": 3}]}
    sampler = {"allowed": [1, 2], "logit_bias": {"5": -1.0}}

    assert as_the_kernel_reads("generate", {"fd": 3, "until": until, "stop_tokens": [2]}) == Generate(
        3,
        stop_tokens=pack_tokens([2]),
        until=Predicate("or", parts=(Predicate("top1_in", tokens=pack_tokens([7])), Predicate("after", 3.0))),
    )
    assert as_the_kernel_reads("sample", {"fd": 3, "sampler": sampler}) == Sample(
        3, sampler=Sampler(allowed=pack_tokens([1, 2]), logit_bias={5: -1.0})
    )


def test_what_the_table_does_not_know_is_refused_by_the_kernel_in_its_words():
    with pytest.raises(InvalidArgument, match="colour"):
        as_the_kernel_reads("open", {"colour": "red"})


def test_a_result_is_plain_json():
    seen = Distribution(4, pack_tokens([9, 8]), pack_floats([-0.5, -math.inf]), 12.5, math.nan)

    assert to_json(ForwardResult(5, (seen,))) == {
        "length": 5,
        "distributions": [
            {
                "position": 4,
                "ids": [9, 8],
                "logprobs": [-0.5, None],
                "logsumexp": 12.5,
                "entropy": None,
                "temperature": 1.0,
                "logsumexp_t": 0.0,
            }
        ],
    }
    assert to_json(GenerateResult(1, "stop", pack_tokens([3]), stop="x"))["tokens"] == [3]
    assert to_json(LogitsResult(0, pack_floats([1.0]))) == {"position": 0, "logits": "AACAPw=="}
