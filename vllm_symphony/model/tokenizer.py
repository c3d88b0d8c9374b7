"""The tokenizer that a GGUF carries, as transformers' `tokenizer.json` (model/tokenizer.py).

A GGUF holds the vocabulary, the merges, and for each token its kind; how text is cut before the merges is only a name, and the one
for SmolLM is digits one by one, then GPT-2's rule. Source: llama.cpp, `llama_vocab` (token types, pre-tokenizer names).
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from vllm_symphony.errors import NotSupported

CONTROL, USER_DEFINED = 3, 4  # GGUF token types; the others are the vocabulary's own


def build_tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """A byte-level BPE from the GGUF's metadata."""
    kind, cut = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre")
    if (kind, cut) != ("gpt2", "smollm"):
        raise NotSupported(f"GGUF tokenizer {kind!r} with pre-tokenizer {cut!r}; only 'gpt2' with 'smollm' is converted here")
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]

    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    pairs = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in pairs if k == CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t, k in pairs if k == USER_DEFINED])
    if fields.get("tokenizer.ggml.add_bos_token"):
        bos = int(fields["tokenizer.ggml.bos_token_id"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[bos]} $A", pair=f"{tokens[bos]} $A {tokens[bos]} $B", special_tokens=[(tokens[bos], bos)]
        )
    return tokenizer


def tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json`; the chat template is a file of its own."""

    def token(name: str) -> str:
        return str(fields["tokenizer.ggml.tokens"][int(fields[f"tokenizer.ggml.{name}_token_id"])])

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(fields["llama.context_length"]),
    }
