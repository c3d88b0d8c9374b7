"""The tokenizer from a GGUF's fields: cuts, merges, special tokens, and refusals."""

import pytest

pytest.importorskip("tokenizers")
from vllm_symphony.errors import NotSupported
from vllm_symphony.model.convert import model_config
from vllm_symphony.model.tokenizer import build_tokenizer, tokenizer_config

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"helo", "Ġ", "1", "2", "he", "ll", "hell", "hello", "12", "<tool>"]
KINDS = [3, 3, 3, *[1] * 12, 4]


@pytest.fixture
def fields():
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": KINDS,
        "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o", "1 2"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "llama.context_length": 64,
    }


def test_text_is_merged_and_comes_back(fields):
    tokenizer = build_tokenizer(fields)

    encoded = tokenizer.encode("hello hello")

    assert encoded.tokens == ["hello", "Ġ", "hello"]
    assert tokenizer.decode(encoded.ids) == "hello hello"


def test_digits_stand_alone_whatever_the_merges_say(fields):
    assert build_tokenizer(fields).encode("12").tokens == ["1", "2"]


def test_special_tokens_are_whole_and_left_out_of_text(fields):
    tokenizer = build_tokenizer(fields)

    ids = tokenizer.encode("<|im_start|>hello<tool><|im_end|>").ids

    assert [TOKENS[i] for i in ids] == ["<|im_start|>", "hello", "<tool>", "<|im_end|>"]
    assert tokenizer.decode(ids) == "hello<tool>"


def test_bos_is_added_only_when_the_file_says_so(fields):
    assert build_tokenizer(fields).encode("he").tokens == ["he"]
    assert build_tokenizer(fields | {"tokenizer.ggml.add_bos_token": True}).encode("he").tokens == ["<|im_start|>", "he"]


def test_config_names_the_tokens(fields):
    config = tokenizer_config(fields)

    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert config["model_max_length"] == 64


@pytest.mark.parametrize("change", [{"tokenizer.ggml.model": "llama"}, {"tokenizer.ggml.pre": "qwen2"}])
def test_another_tokenizer_is_refused(fields, change):
    with pytest.raises(NotSupported, match=next(iter(change.values()))):
        build_tokenizer(fields | change)


def test_the_model_config_has_plain_numbers(fields):
    sizes = {
        "embedding_length": 8, "feed_forward_length": 16, "block_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2,
        "rope.dimension_count": 2, "attention.layer_norm_rms_epsilon": 9.999999747378752e-06, "rope.freq_base": 1e5,
    }  # fmt: skip

    config = model_config(fields | {f"llama.{k}": v for k, v in sizes.items()}, tied=True)

    assert config["rms_norm_eps"] == 1e-5
    assert config["vocab_size"] == len(TOKENS)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["tie_word_embeddings"]) == (4, 2, True)
