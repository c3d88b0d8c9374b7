"""The weights of a Llama in GGUF, as safetensors in bfloat16 (model/weights.py).

Two things differ between llama.cpp and transformers: the names, and the order of the rows in the q and k projections (llama.cpp
interleaves the two halves that the rotary embedding turns together). Quantised tensors are dequantised; their error stays.
The result equals, tensor by tensor, what transformers' own GGUF loader gives after rounding to bfloat16.
Source: llama.cpp, convert_hf_to_gguf.py (`LlamaModel.permute`), whose inverse `unpermute` is.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader
from gguf.quants import dequantize

from vllm_symphony.errors import NotSupported

Array = npt.NDArray[Any]

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def save_weights(reader: GGUFReader, path: Path, num_heads: int, num_kv_heads: int) -> None:
    """Write all tensors of `reader` to `path`, one at a time.

    The safetensors format is a JSON header with its length before it, then the tensors' bytes. The package's own writer takes
    bfloat16 only from torch, whose import costs more than the rest of the conversion.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]  # GGUF names the fastest axis first
        start, end = end, end + 2 * math.prod(shape)
        header[hf_name(tensor.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned
    with path.open("wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, w in named_tensors(reader, num_heads, num_kv_heads):
            f.write(bfloat16(w).tobytes())


def named_tensors(reader: GGUFReader, num_heads: int, num_kv_heads: int) -> Iterator[tuple[str, Array]]:
    """(transformers' name, float32 values in its order of rows), one tensor at a time."""
    for tensor in reader.tensors:
        w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = hf_name(tensor.name)
        if name.endswith("q_proj.weight"):
            w = unpermute(w, num_heads)
        elif name.endswith("k_proj.weight"):
            w = unpermute(w, num_kv_heads)
        yield name, w


def hf_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    match gguf_name.removesuffix(".weight").split("."):
        case [name] if name in WHOLE:
            return f"{WHOLE[name]}.weight"
        case ["blk", layer, kind] if kind in IN_LAYER:
            return f"model.layers.{layer}.{IN_LAYER[kind]}.weight"
    raise NotSupported(f"GGUF tensor {gguf_name!r} has no place in a Llama")


def unpermute(w: Array, num_heads: int) -> Array:
    """Undo llama.cpp's interleaving of a head's two rotary halves: rows a0 b0 a1 b1 ... become a0 a1 ... b0 b1 ..."""
    half = w.shape[0] // num_heads // 2
    return w.reshape(num_heads, half, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def bfloat16(w: Array) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16, ties to even, as its upper 16 bits. Weights are finite, so NaN needs no care."""
    bits = np.ascontiguousarray(w, dtype=np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
