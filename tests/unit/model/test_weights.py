"""A GGUF that we write ourselves, converted back: names, order of rows, rounding, the file format."""

import json
import struct

import numpy as np
import pytest

pytest.importorskip("gguf")
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants

from tests.counts import seed_for
from vllm_symphony.errors import NotSupported
from vllm_symphony.model.weights import bfloat16, hf_name, save_weights, unpermute

HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 4, 2, 8, 32


def permute(w, num_heads):
    """llama.cpp's own words for what it does to q and k."""
    return w.reshape(num_heads, 2, w.shape[0] // num_heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def as_float32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    body = data[8 + length :]
    return {
        name: as_float32(np.frombuffer(body[slice(*t["data_offsets"])], np.uint16)).reshape(t["shape"])
        for name, t in header.items()
    }


@pytest.fixture
def rng():
    return np.random.default_rng(seed_for("weights"))


def test_unpermute_undoes_llama_cpps_order(rng):
    w = rng.normal(size=(HEADS * HEAD_DIM, HIDDEN)).astype(np.float32)

    assert not np.array_equal(permute(w, HEADS), w)
    assert np.array_equal(unpermute(permute(w, HEADS), HEADS), w)


def test_unpermute_of_one_head_separates_the_halves():
    interleaved = np.array([[0], [10], [1], [11], [2], [12]])

    assert unpermute(interleaved, 1).ravel().tolist() == [0, 1, 2, 10, 11, 12]


def test_bfloat16_rounds_to_nearest_and_ties_to_even():
    ulp = 2.0**-7  # of bfloat16 just above 1
    given = np.array([1.0, 1 + 0.4 * ulp, 1 + 0.6 * ulp, 1 + 0.5 * ulp, 1 + 1.5 * ulp, -1 - 0.6 * ulp], np.float32)

    assert as_float32(bfloat16(given)).tolist() == [1.0, 1.0, 1 + ulp, 1.0, 1 + 2 * ulp, -1 - ulp]


@pytest.mark.parametrize(
    ("gguf_name", "name"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.29.ffn_norm.weight", "model.layers.29.post_attention_layernorm.weight"),
    ],
)
def test_names_are_transformers_names(gguf_name, name):
    assert hf_name(gguf_name) == name


@pytest.mark.parametrize("unknown", ["rope_freqs.weight", "blk.0.ffn_gate_exps.weight", "blk.0"])
def test_an_unknown_tensor_is_refused_by_name(unknown):
    with pytest.raises(NotSupported, match=unknown):
        hf_name(unknown)


def test_a_quantised_file_becomes_safetensors_with_the_same_values(tmp_path, rng):
    q = rng.normal(size=(HEADS * HEAD_DIM, HIDDEN)).astype(np.float32)
    k = rng.normal(size=(KV_HEADS * HEAD_DIM, HIDDEN)).astype(np.float32)
    norm = rng.normal(size=HIDDEN).astype(np.float32)
    packed = quants.quantize(permute(q, HEADS), GGMLQuantizationType.Q4_1)
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", packed, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.add_tensor("blk.0.attn_k.weight", permute(k, KV_HEADS))
    writer.add_tensor("blk.0.attn_norm.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    save_weights(GGUFReader(tmp_path / "a.gguf"), tmp_path / "model.safetensors", HEADS, KV_HEADS)

    got = read_safetensors(tmp_path / "model.safetensors")
    assert set(got) == {f"model.layers.0.{n}.weight" for n in ("self_attn.q_proj", "self_attn.k_proj", "input_layernorm")}
    assert np.abs(got["model.layers.0.self_attn.q_proj.weight"] - q).max() < 0.25  # four bits of a normal draw
    assert np.array_equal(got["model.layers.0.self_attn.k_proj.weight"], as_float32(bfloat16(k)))
    assert np.array_equal(got["model.layers.0.input_layernorm.weight"], as_float32(bfloat16(norm)))
