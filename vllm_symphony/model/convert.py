"""From one GGUF to the folder that vLLM and transformers load (model/convert.py).

    config.json             from the GGUF's `llama.*` keys
    model.safetensors       weights.py, bfloat16
    tokenizer.json          tokenizer.py, with tokenizer_config.json and chat_template.jinja
    generation_config.json  where to stop

Only what SmolLM2 needs: architecture `llama`, a byte-level BPE. Anything else is refused with its name, never guessed.
Needs the packages gguf, numpy and tokenizers (extra `cpu` or `gpu`); no torch, whose import alone takes seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm_symphony.errors import NotSupported

Fields = dict[str, Any]  # the GGUF's metadata, as Python values


def convert(gguf: Path, folder: Path) -> None:
    """Write the model of `gguf` into `folder`, which exists and is empty.

    Raises:
        NotSupported: another architecture or tokenizer than SmolLM2's, or a package is missing.
    """
    try:
        from gguf import GGUFReader

        from vllm_symphony.model.tokenizer import build_tokenizer, tokenizer_config
        from vllm_symphony.model.weights import save_weights
    except ImportError as e:
        raise NotSupported(f"making the default model needs {e.name}: pip install vllm-symphony[cpu]") from e

    reader = GGUFReader(gguf)
    fields: Fields = {name: field.contents() for name, field in reader.fields.items()}
    if (architecture := fields.get("general.architecture")) != "llama":
        raise NotSupported(f"GGUF architecture {architecture!r}; only 'llama' is converted here")

    tied = all(t.name != "output.weight" for t in reader.tensors)
    config = model_config(fields, tied=tied)
    save_weights(reader, folder / "model.safetensors", config["num_attention_heads"], config["num_key_value_heads"])
    build_tokenizer(fields).save(str(folder / "tokenizer.json"))
    if template := fields.get("tokenizer.chat_template"):
        (folder / "chat_template.jinja").write_text(template)
    stops = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer_config(fields)),
        ("generation_config.json", stops),
    ):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def model_config(fields: Fields, *, tied: bool) -> dict[str, Any]:
    """`config.json` in transformers' words. `tied`: the output layer is the embedding."""

    def of(key: str) -> Any:
        return fields[f"llama.{key}"]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "transformers_version": "5.0.0",  # without it transformers 5 warns of another model's tokenizer bug
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": int(of("embedding_length")),
        "intermediate_size": int(of("feed_forward_length")),
        "num_hidden_layers": int(of("block_count")),
        "num_attention_heads": int(of("attention.head_count")),
        "num_key_value_heads": int(of("attention.head_count_kv")),
        "head_dim": int(of("rope.dimension_count")),
        "max_position_embeddings": int(of("context_length")),
        "rms_norm_eps": round(float(of("attention.layer_norm_rms_epsilon")), 9),  # stored as float32: 9.99999975e-06
        "rope_theta": float(of("rope.freq_base")),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": int(fields["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(fields["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(fields["tokenizer.ggml.padding_token_id"]),
    }
