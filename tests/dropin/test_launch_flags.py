"""Launch flags of vLLM that change what is computed: plain requests keep them, files are right or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.counts import FULL
from tests.dropin.server import PAGE, TINY
from tests.dropin.test_tokens import PLAIN, ask_all, assert_files_are_plain, assert_same, programs, prompt
from vllm_symphony.abi.calls import FdArgs, Forward, Generate, NoArgs, Open, Read, Sample
from vllm_symphony.abi.types import pack_tokens, unpack_tokens
from vllm_symphony.errors import NotSupported

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("engine_b"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not FULL, reason="each start of a server takes a minute: at full counts only"),
]
NGRAM = json.dumps({"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4, "prompt_lookup_min": 2})
REFUSED = "drop --speculative-config"


def test_with_speculative_decoding_plain_requests_keep_it_and_calls_of_the_model_are_refused(own_server, server_b):
    served = own_server("--speculative-config", NGRAM)
    served.wait_ready()
    repeated = [50, 51, 52, 53, 54, 55] * 20

    assert served.tokens(repeated, 40) == server_b.tokens(repeated, 40)
    drafted = [
        line for line in str(served.ask("/metrics").body).splitlines() if line.startswith("vllm:spec_decode_num_draft_tokens_total")
    ]
    assert drafted and float(drafted[0].split()[-1]) > 0
    with served.client() as client:
        model = client.ask("model_info", NoArgs()).model
        assert not {"forward", "generate", "sample", "logits"} & set(model.capabilities)
        assert REFUSED in model.unsupported["forward"] and REFUSED in model.unsupported["generate"]
        fd = client.ask("open", Open(tokens=pack_tokens([50, 51]))).fd
        for op, args in (("forward", Forward(fd, pack_tokens([52]))), ("generate", Generate(fd, 4)), ("sample", Sample(fd))):
            with pytest.raises(NotSupported, match=REFUSED):
                client.ask(op, args)
        assert unpack_tokens(client.ask("read", Read(fd)).tokens) == [50, 51]
        client.ask("close", FdArgs(fd))
    served.probe("settle")


def adapter(path: Path) -> Path:
    """An adapter that changes what the tiny model says."""
    import torch
    from safetensors.torch import save_file

    shape = json.loads((TINY / "config.json").read_text())
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    heads = shape["num_attention_heads"] * shape.get("head_dim", hidden // shape["num_attention_heads"])
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Any] = {}
    for i in range(layers):
        name = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = torch.randn(8, hidden, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(heads, 8, generator=generator)
    path.mkdir()
    save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none", "lora_dropout": 0.0}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def test_adapters_of_plain_requests_come_and_go_beside_files(own_server, server_b, tmp_path):
    served = own_server("--enable-lora", "--max-lora-rank", "8", VLLM_ALLOW_RUNTIME_LORA_UPDATING="True")
    served.wait_ready()
    tokens = prompt(5, 3 * PAGE)
    true = server_b.tokens(tokens, 12)

    with served.client() as client:
        fd = client.ask("open", Open(tokens=pack_tokens(tokens))).fd
        client.ask("forward", Forward(fd, top_k=1))
        name = client.ask("model_info", NoArgs()).model.fingerprint
        load = {"lora_name": "other", "lora_path": str(adapter(tmp_path / "other"))}
        assert served.ask("/v1/load_lora_adapter", load).status == 200

        adapted = served.tokens(tokens, 12, model="other")
        assert adapted != true == served.tokens(tokens, 12)
        assert unpack_tokens(client.ask("generate", Generate(fd, 12, ignore_eos=True)).tokens) == true
        assert client.ask("model_info", NoArgs()).model.fingerprint == name
        assert served.tokens(tokens, 12, model="other") == adapted

        assert served.ask("/v1/unload_lora_adapter", {"lora_name": "other"}).status == 200
        assert served.ask("/v1/completions", {"model": "other", "prompt": "a"}).status == 404
        client.ask("close", FdArgs(fd))
    served.probe("settle")


@pytest.mark.parametrize(
    ("setting", "engine"),
    [
        ({"scheduler_config.async_scheduling": True}, ["SymphonyAsyncScheduler", "MultiprocExecutor", 2]),
        ({"parallel_config.distributed_executor_backend": "uni"}, ["SymphonyScheduler", "UniProcExecutor", 1]),
    ],
    ids=["asynchronous", "one process"],
)
def test_other_engines_give_the_same_tokens_to_plain_requests_and_files(own_server, server_b, setting, engine):
    served = own_server(SYMPHONY_PROBE_CONFIG=json.dumps(setting))
    served.wait_ready()
    true = dict(ask_all(server_b))

    assert served.probe("engine") == engine
    assert true.keys() == PLAIN.keys()
    with programs(served, 3):
        for name, found in ask_all(served):
            assert_same(found, true[name])
    assert_files_are_plain(served, 45)
    served.probe("settle")
    assert served.stop() == 0
