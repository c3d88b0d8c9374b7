"""What a program and a client import stays light."""

import subprocess
import sys

import pytest

HEAVY = {"vllm", "torch", "ray", "transformers", "numpy"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*{{m.split('.')[0] for m in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_package_imports_nothing_heavy():
    assert not loaded_by("import vllm_symphony") & (HEAVY | {"grpc", "asyncio"})


def test_the_programs_library_imports_no_grpc_and_nothing_heavy():
    pytest.importorskip("vllm_symphony.lip")
    assert not loaded_by("from vllm_symphony import lip") & (HEAVY | {"grpc", "google"})


def test_the_client_imports_nothing_heavy():
    pytest.importorskip("vllm_symphony.client")
    assert not loaded_by("import vllm_symphony.client") & HEAVY


def test_the_default_model_costs_nothing_until_it_is_made():
    assert not loaded_by("import vllm_symphony.model") & (HEAVY | {"gguf", "tokenizers"})


def test_what_counts_the_requests_of_vllms_server_imports_no_grpc():
    assert not loaded_by("import vllm_symphony.edge.meter") & (HEAVY | {"grpc", "google"})
