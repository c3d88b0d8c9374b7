"""Cases of a model in which every second layer attends to a window only: run by test_hybrid.py in a process of their own.

Its weights are random and made here: so large that the window, the positions and each token are seen in the logits.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.driver import Driver
from tests.engine.reference import CLOSE, assert_close, plain
from tests.tiny import engine_env, tiny_args
from vllm_symphony.errors import NotSupported

WINDOW, VOCAB = 48, 512
PROMPT = [(37 * i) % 500 + 3 for i in range(200)]


def engine_args() -> Any:
    return tiny_args(model=str(model()), skip_tokenizer_init=True, max_model_len=1024)


def model() -> Path:
    engine_env()
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(5)
    config = Gemma2Config(
        vocab_size=VOCAB, hidden_size=96, intermediate_size=192, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, query_pre_attn_scalar=32, sliding_window=WINDOW, max_position_embeddings=1024,
        initializer_range=0.2, eos_token_id=1, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    path = Path(tempfile.mkdtemp(prefix="symphony-hybrid-"))
    atexit.register(shutil.rmtree, path)
    Gemma2ForCausalLM(config).save_pretrained(path)
    return path


def case_a_file_gives_plain_vllms_tokens(dev: Driver) -> None:
    reference = plain(dev, PROMPT, 20)
    f = dev.create()

    (d,) = dev.forward(f, PROMPT)
    for token, top in zip(reference.tokens, reference.tops, strict=True):
        assert_close(d, top)
        (d,) = dev.forward(f, [token])

    dev.drop(f)


def case_generate_gives_plain_vllms_tokens(dev: Driver) -> None:
    f = dev.create(PROMPT)

    assert dev.generate(f, 30).tokens == plain(dev, PROMPT, 30).tokens
    dev.drop(f)


def case_forks_and_truncated_files_give_plain_vllms_tokens(dev: Driver) -> None:
    f = dev.create(PROMPT)
    dev.generate(f, 10)

    for length in (200, 130, 64, 40, 3):
        fork = dev.fork(f, length)
        dev.truncate(f, length)
        reference = plain(dev, PROMPT[:length], 12)
        for file in (fork, f):
            (d,) = dev.forward(file, [])
            assert_close(d, reference.tops[0])
        assert dev.generate(fork, 12).tokens == reference.tokens
        dev.drop(fork)
    dev.drop(f)


def case_the_window_is_seen_in_the_logits(dev: Driver) -> None:
    """Or the cases above would prove nothing."""
    whole, tail = plain(dev, PROMPT, 1).tops[0], plain(dev, PROMPT[-WINDOW:], 1).tops[0]

    assert max(abs(a[1] - b[1]) for a, b in zip(whole, tail, strict=True)) > 100 * CLOSE


def case_surgery_is_refused_with_the_reason(dev: Driver) -> None:
    f = dev.create(PROMPT)
    dev.forward(f, [])

    for ask in (
        lambda: dev.extract(f, (0, 4), (100, 180)),
        lambda: dev.extract(f, (4, 80), compact=True),
        lambda: dev.concat(f, f),
    ):
        with pytest.raises(NotSupported, match="some layers do not attend to all tokens"):
            ask()

    info = dev.host.model
    assert not {"extract", "compact", "rotate"} & set(info.capabilities)
    assert set(info.unsupported) - {"pages"} == {"extract", "compact", "rotate"}
    assert all("some layers do not attend to all tokens" in reason for reason in info.unsupported.values())
    assert ("pages" in info.unsupported) == ("recompute" in info.capabilities)
    dev.drop(f)
